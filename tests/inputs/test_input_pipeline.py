import collections
import itertools
import json

import numpy as np
import pytest
import stand_ins
from absl import flags

from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import pipeline, shards
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.inputs.interleaved import Interleaved


def _iterator(*dirs, batch_size=4, seed=0, overrides=None, **options):
    return pipeline.make_iterator(
        stand_ins.config(*dirs, **(overrides or {})),
        stand_ins.MODALITIES,
        batch_size=batch_size,
        seed=seed,
        **options,
    )


def _take(iterator, count):
    return list(itertools.islice(iterator, count))


def _assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_pair_rgb_with_the_modality_of_the_same_clip(noise_dir):
    rgb = shards.Series(noise_dir, "rgb")
    others = {n: shards.Series(noise_dir, m) for n, m in enumerate(stand_ins.MODALITIES)}
    for batch in _take(_iterator(noise_dir), 5):
        assert batch["latents"].shape == (4, 2, 2, 2, 2, 4)
        assert batch["context"].shape == (4, 2, 6, 8)
        assert batch["latents"].dtype == batch["context"].dtype == np.float16
        assert batch["modality"].dtype == batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["modality"][:, 0], 0)
        for row, n in enumerate(batch["index"]):
            other = others[batch["modality"][row, 1]][n]
            np.testing.assert_array_equal(batch["latents"][row, 0], rgb[n]["latents"])
            np.testing.assert_array_equal(batch["latents"][row, 1], other["latents"])
            np.testing.assert_array_equal(batch["context"][row, 0], rgb[n]["embedding"])
            np.testing.assert_array_equal(batch["context"][row, 1], other["embedding"])


def test_the_stream_is_a_function_of_the_seed(noise_dir):
    first = _take(_iterator(noise_dir), 8)
    _assert_equal(first, _take(_iterator(noise_dir, overrides={"read_threads": 7}), 8))
    other = _take(_iterator(noise_dir, seed=1), 8)
    assert any(
        not np.array_equal(a["index"], b["index"]) for a, b in zip(first, other, strict=True)
    )


def test_every_record_once_an_epoch_a_modality_in_a_new_order(noise_dir):
    iterator = _iterator(noise_dir, batch_size=3)
    seen = collections.defaultdict(list)
    for batch in _take(iterator, 40):
        for modality, index in zip(batch["modality"][:, 1], batch["index"], strict=True):
            seen[int(modality)].append(int(index))
    # 120 draws at 1/3 and 2/3 are four epochs of depth and eight of flow over ten clips.
    assert {m: len(v) for m, v in seen.items()} == {1: 40, 2: 80}
    for indices in seen.values():
        epochs = np.reshape(indices, (-1, 10))
        np.testing.assert_array_equal(
            np.sort(epochs, axis=1), np.tile(np.arange(10), (len(epochs), 1))
        )
        assert len({tuple(e) for e in epochs}) > 1
        assert any(tuple(e) != tuple(range(10)) for e in epochs)


def test_folders_and_modalities_mix_exactly_by_weight(noise_dir, other_dir):
    iterator = _iterator(noise_dir, other_dir, batch_size=4, overrides={"dir_weights": (3.0, 1.0)})
    counts = collections.Counter()
    for batch in _take(iterator, 60):
        for modality, index in zip(batch["modality"][:, 1], batch["index"], strict=True):
            counts[int(modality), bool(index >= 10)] += 1
        assert batch["index"].max() < 17
    assert counts == {(1, False): 60, (2, False): 120, (1, True): 20, (2, True): 40}


def test_stage_weights_choose_the_modalities(noise_dir):
    iterator = _iterator(noise_dir, stage_weights={"flow": 1.0})
    assert all((batch["modality"][:, 1] == 2).all() for batch in _take(iterator, 5))


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_saved_state_goes_on_with_the_very_next_batch(noise_dir, stop):
    overrides = {"caption_dropout": 0.5}
    iterator = _iterator(noise_dir, overrides=overrides)
    _take(iterator, stop)
    state = iterator.get_state()
    expected = _take(iterator, 6)
    fresh = _iterator(noise_dir, overrides=overrides)
    _take(fresh, 3)
    fresh.set_state(state)
    _assert_equal(expected, _take(fresh, 6))


def test_a_run_goes_on_with_the_due_record_whatever_reads_it(noise_dir):
    def drawn(batches):
        rows = [zip(b["modality"][:, 1], b["index"], strict=True) for b in batches]
        return [tuple(map(int, row)) for batch in rows for row in batch]

    whole = drawn(_take(_iterator(noise_dir), 10))
    iterator = _iterator(noise_dir)
    seen = drawn(_take(iterator, 3))
    for size, threads in ((6, 1), (2, 5)):
        state = iterator.get_state()
        assert state == {"samples": len(seen)}
        iterator = _iterator(noise_dir, batch_size=size, overrides={"read_threads": threads})
        iterator.set_state(state)
        seen += drawn(_take(iterator, 2))
    iterator.set_state({"next_index": 14})  # as an earlier version wrote it, in batches of two
    assert iterator.get_state() == {"samples": 28}
    # Two processes read what is left.
    parts = [_iterator(noise_dir, batch_size=4, process_index=p, process_count=2) for p in range(2)]
    for part in parts:
        part.set_state(iterator.get_state())
    seen += [row for _ in range(3) for part in parts for row in drawn(_take(part, 1))]
    assert seen == whole


def test_a_record_is_described_by_its_folder_and_clip(noise_dir, other_dir):
    iterator = _iterator(noise_dir, other_dir)
    assert iterator.describe(13) == f"record 3 of {other_dir} (clip 'noise-0003')"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_partition_the_single_process_stream(noise_dir, count):
    overrides = {"caption_dropout": 0.5}
    whole = _take(_iterator(noise_dir, overrides=overrides), 6)
    parts = [
        _take(_iterator(noise_dir, overrides=overrides, process_index=p, process_count=count), 6)
        for p in range(count)
    ]
    assert parts[0][0]["index"].shape == (4 // count,)
    joined = [
        {key: np.concatenate([part[step][key] for part in parts]) for key in whole[step]}
        for step in range(6)
    ]
    _assert_equal(whole, joined)


def test_every_process_sees_balanced_batches(noise_dir):
    # Two modalities at equal weight over two processes: a strided split would starve each of one.
    weights = {"depth": 1.0, "flow": 1.0}
    for p in range(2):
        for batch in _take(
            _iterator(noise_dir, stage_weights=weights, process_index=p, process_count=2), 5
        ):
            assert sorted(batch["modality"][:, 1]) == [1, 2]


def test_worker_processes_give_the_same_stream_and_resume(noise_dir):
    flags.FLAGS.mark_as_parsed()  # as in a program; Grain's workers read its own flags
    overrides = {"num_workers": 1}
    iterator = _iterator(noise_dir, overrides=overrides)
    batches = _take(iterator, 2)
    _assert_equal(batches, _take(_iterator(noise_dir), 2))
    state = iterator.get_state()
    expected = _take(_iterator(noise_dir), 4)[2:]
    fresh = _iterator(noise_dir, overrides=overrides)
    fresh.set_state(state)
    _assert_equal(expected, _take(fresh, 2))


def test_captions_drop_at_their_rate_and_prompts_do_not(noise_dir):
    null = shards.read_null_context(noise_dir)
    batches = _take(_iterator(noise_dir, batch_size=40, overrides={"caption_dropout": 0.3}), 25)
    context = np.concatenate([b["context"] for b in batches])
    dropped = (context == null).all(axis=(2, 3))
    # 1000 draws: four standard deviations are 0.058.
    assert abs(dropped[:, 0].mean() - 0.3) < 0.058
    assert not dropped[:, 1].any()
    # Fresh draws each time: the same clip is dropped in one epoch and kept in another.
    index = np.concatenate([b["index"] for b in batches])
    assert 0 < dropped[index == index[0], 0].mean() < 1


def test_prompts_drop_on_their_own(noise_dir):
    null = shards.read_null_context(noise_dir)
    overrides = {"caption_dropout": 0.0, "prompt_dropout": 1.0}
    batch = next(_iterator(noise_dir, overrides=overrides))
    assert (batch["context"][:, 1] == null).all()
    assert not (batch["context"][:, 0] == null).all(axis=(1, 2)).any()


@pytest.mark.parametrize(
    "overrides, options, message",
    [
        ({"num_frames": 9}, {}, "num_frames=5.*config.data.num_frames is 9"),
        ({"height": 32}, {}, "height=16"),
        ({"text_encoder": "minilm"}, {}, "text_encoder=words"),
        ({"text_length": 7}, {}, "text_length=6"),
        ({"dir_weights": (0.0,)}, {}, "every weight is 0"),
        ({}, {"stage_weights": {"normals": 1.0}}, "unknown modality 'normals'"),
        ({}, {"process_count": 3, "process_index": 0}, "multiple of the 3 processes"),
        ({}, {"process_count": 2, "process_index": 2}, "process_index=2"),
        ({}, {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_configs_that_do_not_fit_are_refused(noise_dir, overrides, options, message):
    with pytest.raises(UserError, match=message):
        _iterator(noise_dir, overrides=overrides, **options)


def test_where_the_text_encoder_lies_may_differ(noise_dir):
    """As in text_encoder=umt5:FOLDER, of which shards record what is before the colon."""
    assert next(_iterator(noise_dir, overrides={"text_encoder": "words:/another/folder"}))


def test_a_modality_that_was_not_prepared_is_named(noise_dir):
    with pytest.raises(UserError, match=r"no series of modality 'skeleton'.*--modalities="):
        pipeline.make_iterator(
            stand_ins.config(noise_dir, modality_weights={"skeleton": 1.0}),
            (*stand_ins.MODALITIES, "skeleton"),
            batch_size=2,
            seed=0,
        )


def test_groups_of_unlike_modalities_keep_their_shares_and_so_do_the_modalities(
    noise_dir, tmp_path
):
    """As in UnityVideo's four groups: every batch holds each group equally."""
    stand_ins.prepare_noise(tmp_path, 3, salt=2, modalities=("rgb", "flow"))
    iterator = _iterator(noise_dir, tmp_path, batch_size=6)
    batches = _take(iterator, 40)
    drawn = collections.Counter()
    for batch in batches:
        second = batch["index"] >= 10
        assert abs(int(second.sum()) - 3) <= 1
        drawn.update(zip(second.tolist(), batch["modality"][:, 1].tolist(), strict=True))
    depth, flow = (stand_ins.MODALITIES.index(m) for m in ("depth", "flow"))
    # Asked for are depth and flow at 1 to 2, and the folders alike; the second has flow alone.
    assert drawn == {(False, depth): 80, (False, flow): 40, (True, flow): 120}
    shares = {share.what: (share.asked, share.drawn) for share in iterator.shares}
    assert shares == {
        "depth": pytest.approx((1 / 3, 80 / 240)),
        "flow": pytest.approx((2 / 3, 160 / 240)),
        str(noise_dir): (0.5, 0.5),
        str(tmp_path): (0.5, 0.5),
    }


@pytest.mark.parametrize(("streams", "sets"), [(1, {(0,): 30, (1,): 10, (2,): 20}), (3, None)])
def test_any_number_of_streams_comes_of_the_same_clip(noise_dir, streams, sets):
    overrides = {"streams": (1, 0, 1), "rgb_alone": 0.5, "caption_dropout": 0.0}
    iterator = _iterator(noise_dir, overrides=overrides, streams=streams, batch_size=6)
    series = [shards.Series(noise_dir, name) for name in stand_ins.MODALITIES]
    seen = collections.Counter()
    for batch in _take(iterator, 10):
        assert batch["latents"].shape[:2] == batch["context"].shape[:2] == (6, streams)
        for row, n in enumerate(batch["index"]):
            ids = tuple(batch["modality"][row].tolist())
            seen[ids] += 1
            for stream, m in enumerate(ids):
                record = series[m][n]
                np.testing.assert_array_equal(batch["latents"][row, stream], record["latents"])
                np.testing.assert_array_equal(batch["context"][row, stream], record["embedding"])
    assert seen == (sets or {(0, 1, 2): 60})


def test_steps_of_several_numbers_of_streams_come_by_weight_and_go_on(noise_dir):
    overrides = {"streams": (1, 2, 1), "caption_dropout": 0.5}

    def build():
        parts = {
            f"{n} streams": (weight, _iterator(noise_dir, streams=n, overrides=overrides))
            for n, weight in ((1, 1.0), (2, 2.0), (3, 1.0))
        }
        return Interleaved(parts)

    iterator = build()
    batches = _take(iterator, 8)
    counts = collections.Counter(batch["modality"].shape[1] for batch in batches)
    assert counts == {1: 2, 2: 4, 3: 2}
    state = json.loads(json.dumps(iterator.get_state()))
    fresh = build()
    _take(fresh, 3)
    fresh.set_state(state)
    _assert_equal(_take(iterator, 5), _take(fresh, 5))
    shares = {(s.streams, s.what): (s.asked, s.drawn) for s in iterator.shares}
    assert shares[0, "2 streams"] == (0.5, 0.5) and shares[1, "rgb"] == (1.0, 1.0)


def test_more_streams_than_modalities_is_one_line(noise_dir, tmp_path):
    with pytest.raises(UserError, match=r"draws 4 streams, RGB and 3 modalities, but .* has 2"):
        _iterator(noise_dir, overrides={"streams": (0, 0, 0, 1)}, streams=4)
    stand_ins.prepare_noise(tmp_path / "a", 2, modalities=("rgb", "depth"))
    stand_ins.prepare_noise(tmp_path / "b", 2, modalities=("rgb", "flow"))
    folders = (tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match=r"3 streams, .* no folder has more than 1 of those drawn"):
        _iterator(*folders, overrides={"streams": (0, 0, 1)}, streams=3)


def test_folders_of_different_layout_are_refused(noise_dir, tmp_path):
    from unityvideo_jax.inputs.preparing import prepare

    prepare(
        stand_ins.NoiseSource(2),
        stand_ins.encoder("another-vae"),
        stand_ins.HashTexts(),
        workdir=tmp_path,
        modalities=stand_ins.MODALITIES,
        **stand_ins.SIZE,
    )
    with pytest.raises(UserError, match="another-vae"):
        _iterator(noise_dir, tmp_path)


def test_another_vae_than_the_shards_is_refused(noise_dir, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"encoded by VAE stand-in.*config.data.vae"):
        _iterator(noise_dir, overrides={"vae": str(tmp_path)})


def test_another_frame_rate_is_said(tmp_path, capsys):
    stand_ins.prepare_noise(tmp_path)
    config = as_data_config(stand_ins.config(tmp_path) | {"fps": 30.0})
    pipeline.open_folders(config, {"depth": 1.0})
    said = capsys.readouterr().out
    assert f"{tmp_path}: clips of 8 frames per second" in said
    assert "set --config.data.fps=8" in said
