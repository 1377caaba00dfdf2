import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import stand_ins

from unityvideo_jax import modalities as registry
from unityvideo_jax.errors import UserError
from unityvideo_jax.inputs import pipeline, shards


def test_records_hold_what_was_encoded(noise_dir):
    card = shards.read_card(noise_dir)
    assert (card.count, card.latent_shape) == (10, (2, 2, 2, 4))
    assert card.modalities == stand_ins.MODALITIES
    texts, encoder = stand_ins.HashTexts(), stand_ins.encoder()
    for name in card.modalities:
        series = shards.Series(noise_dir, name)
        assert len(series) == 10
        for n in (0, 3, 9):
            video, side = registry.get(name).codec.encode(stand_ins.clip(n))
            record = series[n]
            assert record["key"] == f"noise-{n:04d}"
            assert record["text"] == f"{name} of clip {n}"
            np.testing.assert_allclose(
                record["latents"], encoder(np.asarray(video)[None], name)[0], atol=2e-3
            )
            assert record["latents"].dtype == record["embedding"].dtype == np.float16
            np.testing.assert_allclose(record["embedding"], texts([record["text"]])[0], atol=1e-3)
            assert set(record["side"]) == set(side)
            for key in side:
                np.testing.assert_allclose(record["side"][key], side[key], rtol=1e-6)


def test_nothing_but_the_dataset_lies_in_the_folder(noise_dir):
    assert [path.name for path in pathlib.Path(noise_dir).iterdir()] == ["latents"]


def test_keys_agree_across_series_in_order(noise_dir):
    keys = [
        [shards.Series(noise_dir, name)[n]["key"] for n in range(10)]
        for name in stand_ins.MODALITIES
    ]
    assert keys[0] == keys[1] == keys[2] == sorted(set(keys[0]))


def test_a_series_survives_pickling(noise_dir):
    series = pickle.loads(pickle.dumps(shards.Series(noise_dir, "depth")))
    assert series[4]["key"] == "noise-0004"


def test_null_context_is_the_embedding_of_the_empty_text(noise_dir):
    null = shards.read_null_context(noise_dir)
    np.testing.assert_allclose(null, stand_ins.HashTexts()([""])[0], atol=1e-3)


@pytest.fixture
def broken(noise_dir, tmp_path):
    shutil.copytree(noise_dir, tmp_path / "copy")
    file = sorted(shards.series_path(tmp_path / "copy", "depth").glob("*array_record*"))[0]
    return tmp_path / "copy", file


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_a_truncated_shard_is_named_on_opening(broken, keep):
    directory, file = broken
    with open(file, "rb+") as handle:
        handle.truncate(int(file.stat().st_size * keep))
    with pytest.raises(UserError, match="corrupt or truncated") as error:
        pipeline.make_iterator(
            stand_ins.config(directory), stand_ins.MODALITIES, batch_size=2, seed=0
        )
    assert str(file) in str(error.value)
    assert "prepare" in str(error.value)


def test_flipped_bytes_are_named_on_reading(broken):
    directory, file = broken
    content = bytearray(file.read_bytes())
    # Records come first; the tail of a small file is padding that nothing reads.
    for n in range(100, 2000):
        content[n] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        iterator = pipeline.make_iterator(
            stand_ins.config(directory), stand_ins.MODALITIES, batch_size=2, seed=0
        )
        for _ in range(20):
            next(iterator)
    assert str(file) in str(error.value)


def test_a_missing_shard_file_is_named(broken):
    directory, file = broken
    file.unlink()
    with pytest.raises(UserError, match=file.name):
        shards.Series(directory, "depth")


def test_a_shard_with_too_few_records_is_named(broken):
    directory, file = broken
    info = file.parent / "dataset_info.json"
    content = json.loads(info.read_text())
    lengths = content["splits"][0]["shardLengths"]
    content["splits"][0]["shardLengths"] = [str(int(lengths[0]) + 1), *lengths[1:]]
    info.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"holds 10 records where dataset_info.json says 11"):
        shards.Series(directory, "depth")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_a_bad_card_is_named(broken, content):
    directory, _ = broken
    (shards.root_of(directory) / shards.CARD_NAME).write_text(content)
    with pytest.raises(UserError, match=r"dataset.json.*prepare the"):
        shards.read_card(directory)


def test_no_folder_and_unfinished_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        shards.read_card(tmp_path / "nothing")
    with pytest.raises(UserError, match="no finished shards"):
        shards.read_card(tmp_path)


def test_series_of_different_clips_are_not_joined(noise_dir, tmp_path):
    shutil.copytree(noise_dir, tmp_path / "mixed")
    # Same length and layout, but renamed keys.
    source = stand_ins.NoiseSource(10)
    source.keys = [f"another-{n}" for n in range(10)]
    from unityvideo_jax.inputs.preparing import prepare

    prepare(
        source,
        stand_ins.encoder(),
        stand_ins.HashTexts(),
        workdir=tmp_path / "renamed",
        modalities=("rgb", "depth"),
        **stand_ins.SIZE,
    )
    target = shards.series_path(tmp_path / "mixed", "depth")
    shutil.rmtree(target)
    shutil.copytree(shards.series_path(tmp_path / "renamed", "depth"), target)
    iterator = pipeline.make_iterator(
        stand_ins.config(tmp_path / "mixed", modality_weights={"depth": 1.0}),
        stand_ins.MODALITIES,
        batch_size=2,
        seed=0,
    )
    with pytest.raises(UserError, match="not prepared together"):
        next(iterator)
