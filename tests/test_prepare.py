import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import in_process
import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "inputs"))

import stand_ins  # noqa: E402

from unityvideo_jax import media  # noqa: E402
from unityvideo_jax import modalities as registry  # noqa: E402
from unityvideo_jax.errors import UserError  # noqa: E402
from unityvideo_jax.inputs import shards, sources, staging  # noqa: E402
from unityvideo_jax.inputs.encode import load_encoder  # noqa: E402
from unityvideo_jax.inputs.online import OnlineWorlds  # noqa: E402
from unityvideo_jax.modalities import BUILT_IN  # noqa: E402

SLOW = """
import sys
sys.path[:0] = [{root!r}, {inputs!r}]
import stand_ins
stand_ins.prepare_noise({workdir!r}, 22, delay=0.05)
assert not [m for m in ("tensorflow", "torch") if m in sys.modules]
print("TensorFlow-free")
"""


def _script(workdir):
    return SLOW.format(root=str(HERE.parent), inputs=str(HERE / "inputs"), workdir=str(workdir))


def _start(workdir):
    return subprocess.Popen(
        [sys.executable, "-c", _script(workdir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _contents(directory):
    """Every file byte for byte but the lock."""
    root = shards.root_of(directory)
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != ".staging.lock"
    }


def _records(directory, modalities=stand_ins.MODALITIES):
    """Every field of every record byte for byte, and the card.

    The files themselves may differ: protocol buffers serialise maps in no particular order.
    """
    flat = {}
    for name in modalities:
        series = shards.Series(directory, name)
        for n in range(len(series)):
            record = series[n]
            flat[name, n] = {
                "key": record["key"],
                "text": record["text"],
                "latents": record["latents"].tobytes(),
                "embedding": record["embedding"].tobytes(),
                **{f"side/{k}": v.tobytes() for k, v in record["side"].items()},
            }
    return flat, (shards.root_of(directory) / shards.CARD_NAME).read_text()


def test_a_killed_run_resumes_without_duplicates_or_gaps(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    stand_ins.prepare_noise(whole, 22)
    chunks = shards.root_of(killed) / staging.FOLDER
    generator = random.Random(os.urandom(8))
    for kill in range(2):
        process = _start(killed)
        # Any time from the first chunk on, packing included; over in under a second.
        wanted = kill + 1
        while process.poll() is None and len(list(chunks.glob("chunk-*.npz"))) < wanted:
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    staged = {p.name: p.stat().st_mtime_ns for p in chunks.glob("chunk-*.npz")}
    assert staged and not (shards.root_of(killed) / shards.CARD_NAME).exists()
    output, _ = _start(killed).communicate(timeout=600)
    assert "TensorFlow-free" in output, output
    assert "/22 clips were done before" in output or len(staged) == 6
    assert _records(killed) == _records(whole)
    assert not chunks.exists()
    keys = [shards.Series(killed, "flow")[n]["key"] for n in range(22)]
    assert keys == [f"noise-{n:04d}" for n in range(22)]


def test_complete_chunks_are_not_made_again(tmp_path, monkeypatch):
    loaded = []
    original = stand_ins.NoiseSource.load

    def load(self, indices, modalities):
        loaded.append(list(indices))
        if len(loaded) == 4:
            raise KeyboardInterrupt
        return original(self, indices, modalities)

    monkeypatch.setattr(stand_ins.NoiseSource, "load", load)
    with pytest.raises(KeyboardInterrupt):
        stand_ins.prepare_noise(tmp_path, 10)
    # Chunks of 4 in batches of 2: the second chunk was not whole, so it is made from its start.
    stand_ins.prepare_noise(tmp_path, 10)
    assert loaded[4:] == [[4, 5], [6, 7], [8, 9]]


def test_a_kill_while_packing_leaves_whole_series_alone(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    stand_ins.prepare_noise(whole, 10)
    original = staging.Staging.rows

    def rows(self, identities, names):
        for n, row in enumerate(original(self, identities, names)):
            if "flow/latents" in names and n == 5:
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(staging.Staging, "rows", rows)
        stand_ins.prepare_noise(killed, 10)
    # What a SIGKILL would leave, since TFDS tidies up after an exception.
    stray = shards.root_of(killed) / "flow" / "incomplete.ABC123_1.0.0"
    stray.mkdir(parents=True)
    (stray / "latents-train.array_record-00000-of-00001").write_bytes(b"half")
    assert not shards.series_path(killed, "flow").exists()
    with pytest.raises(UserError, match="no finished shards"):
        shards.read_card(killed)
    before = shards.series_path(killed, "depth").stat().st_ino
    stand_ins.prepare_noise(killed, 10)
    assert shards.series_path(killed, "depth").stat().st_ino == before
    assert not stray.exists()
    assert _records(killed) == _records(whole)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(height=32), "--height=16, now --height=32"),
        (dict(num_frames=9), "--num_frames=5, now --num_frames=9"),
        (dict(salt=3), "--seed=0, now --seed=3"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(tmp_path, monkeypatch, change, message):
    finished, unfinished = tmp_path / "finished", tmp_path / "unfinished"
    stand_ins.prepare_noise(finished, 10)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stand_ins.NoiseSource, "load", _interrupt)
        stand_ins.prepare_noise(unfinished, 10)
    for directory in (finished, unfinished):
        before = _contents(directory)
        with pytest.raises(UserError, match=message):
            stand_ins.prepare_noise(directory, **(dict(count=10) | change))
        assert _contents(directory) == before


def _interrupt(self, indices, modalities):
    raise KeyboardInterrupt


def test_an_unfinished_run_of_other_modalities_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stand_ins.NoiseSource, "load", _interrupt)
        stand_ins.prepare_noise(tmp_path, 10)
    with pytest.raises(UserError, match="--modalities=rgb,depth,flow, now --modalities=rgb"):
        stand_ins.prepare_noise(tmp_path, 10, modalities=("rgb",))


def test_a_finished_dataset_of_other_clips_is_refused(tmp_path):
    stand_ins.prepare_noise(tmp_path, 10)
    with pytest.raises(UserError, match="--num_clips=10, now --num_clips=6"):
        stand_ins.prepare_noise(tmp_path, 6)


def test_a_finished_dataset_is_left_alone(tmp_path, capsys):
    card = stand_ins.prepare_noise(tmp_path, 10)
    times = {p: p.stat().st_mtime_ns for p in shards.root_of(tmp_path).rglob("*.array_record*")}
    assert stand_ins.prepare_noise(tmp_path, 10, chunk_size=7) == card
    assert "complete already" in capsys.readouterr().out
    assert times == {
        p: p.stat().st_mtime_ns for p in shards.root_of(tmp_path).rglob("*.array_record*")
    }


def test_modalities_can_be_added_and_deleted_series_written_again(tmp_path):
    together, apart = tmp_path / "together", tmp_path / "apart"
    stand_ins.prepare_noise(together, 10)
    card = stand_ins.prepare_noise(apart, 10, modalities=("rgb", "flow"))
    assert card.modalities == ("rgb", "flow")
    card = stand_ins.prepare_noise(apart, 10, modalities=("depth",))
    assert card.modalities == ("rgb", "flow", "depth")
    shutil.rmtree(shards.series_path(apart, "flow"))
    card = stand_ins.prepare_noise(apart, 10, modalities=("rgb", "flow"))
    assert card.modalities == ("rgb", "flow", "depth")
    assert _records(together)[0] == _records(apart)[0]


def test_a_short_last_batch_equals_a_full_one(tmp_path):
    stand_ins.prepare_noise(tmp_path / "a", 5, chunk_size=5, batch_size=4)
    stand_ins.prepare_noise(tmp_path / "b", 5, chunk_size=5, batch_size=5)
    for n in range(5):
        a, b = (shards.Series(tmp_path / d, "depth")[n] for d in "ab")
        assert a["key"] == b["key"]
        np.testing.assert_array_equal(a["latents"], b["latents"])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(num_frames=6), "--num_frames=6.*4n.1.*use 5 or 9"),
        (dict(width=24), "--width=24.*use 16 or 32"),
        (dict(modalities=("rgb", "normals")), "unknown modality 'normals'"),
        (dict(modalities=("depth",)), "lacks rgb"),
        (dict(modalities=("rgb", "depth", "depth")), "depth given twice"),
        (dict(chunk_size=0), "--chunk_size"),
        (dict(count=0), "nothing to prepare"),
    ],
)
def test_bad_settings_write_nothing(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        stand_ins.prepare_noise(tmp_path / "new", **(dict(count=2) | change))
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "latents" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="holds mine, which no finished or unfinished"):
        stand_ins.prepare_noise(tmp_path, 2)
    assert [p.name for p in (tmp_path / "latents").iterdir() if p.is_dir()] == ["mine"]


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    other = staging.Staging(tmp_path, {})
    with other.locked(), pytest.raises(UserError, match="in use by process"):
        stand_ins.prepare_noise(tmp_path, 2)


def test_a_broken_chunk_is_made_again_or_named(tmp_path, monkeypatch, capsys):
    def rows(self, identities, names):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(staging.Staging, "rows", rows)
        stand_ins.prepare_noise(tmp_path, 10)
    cut, flipped = sorted((shards.root_of(tmp_path) / staging.FOLDER).glob("chunk-*"))[1:]
    cut.write_bytes(cut.read_bytes()[:100])
    data = flipped.read_bytes()
    flipped.write_bytes(data[: len(data) // 2] + b"\xff\x00" + data[len(data) // 2 + 2 :])
    with pytest.raises(UserError, match=rf"{flipped.name}: not a readable npz.*delete it"):
        stand_ins.prepare_noise(tmp_path, 10)
    assert f"{cut.name}: not a readable npz" in capsys.readouterr().out
    flipped.unlink()
    assert stand_ins.prepare_noise(tmp_path, 10).count == 10


def test_progress_names_rate_and_time_left(tmp_path, capsys):
    stand_ins.prepare_noise(tmp_path, 10)
    output = capsys.readouterr().out
    assert "encode: 4/10 clips, compiled in " in output
    assert re.search(r"encode: 10/10 clips, [\d.]+ clips/s, 0 s left", output)
    assert re.search(r"pack depth: 10/10 clips, [\d.]+ clips/s", output)
    assert staging._duration(3725.0) == "1 h 02 min"


def _program(*flags):
    return in_process.run("prepare", *flags, folder=HERE.parent)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "notes").write_text("mine")
    result = _program("--source=worlds", f"--workdir={tmp_path / 'notes' / 'shards'}")
    assert result.returncode == 2
    assert f"{tmp_path / 'notes'} is a file; name a folder" in result.stderr
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("held", ["config.json", "model.safetensors", "model_index.json"])
@pytest.mark.parametrize("flag", ["--source=worlds", "--config=openuni_local"])
def test_the_folder_of_a_model_or_run_is_not_written_to(tmp_path, held, flag):
    (tmp_path / held).touch()
    result = _program("--source=worlds", flag, f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert f"error: {tmp_path}: holds {held} already; give another --workdir" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [held]


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "error: --source is missing"),
        (("--source=worlds", "--num_frames=16"), "error: --num_frames=16"),
        (("--source=worlds", "--modalities=rgb,normals"), "error: unknown modality 'normals'"),
        (("--source=/no/such/folder",), "error: --source=/no/such/folder: no such folder"),
        (("--source=worlds", "--depth_unit=cm"), "error: --depth_unit: is for --source=FOLDER"),
        (("--source=a.csv", "--closeup=0.1"), "error: --closeup: is for --source=worlds"),
        (("--source=a.csv", "--split=train"), "error: --split: is of worlds and packed clips"),
        (("--source=a.csv", "--registry_prompt_rate=0.1"), "error: --registry_prompt_rate: is for"),
        (("--source=a.csv", "--sizes=5x16x16", "--height=16"), "error: --height: --sizes says it"),
    ],
)
def test_the_program_prints_one_line_for_a_slip(tmp_path, flags, message):
    result = _program(f"--workdir={tmp_path / 'new'}", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "new").exists()


def test_the_program_prepares_a_folder(tmp_path):
    folder, vae = tmp_path / "clips", stand_ins.save_tiny_vae(tmp_path / "vae")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for key in ("one", "two"):
        frames = rng.integers(0, 255, (6, 24, 32, 3), np.uint8)
        media.write_video(folder / f"{key}.mp4", frames, 8.0)
        np.savez(folder / f"{key}.depth.npz", depth=1 + rng.random((6, 24, 32), np.float32))
        (folder / f"{key}.txt").write_text(f"The {key} clip.")
    flags = (
        f"--source={folder}",
        f"--workdir={tmp_path / 'out'}",
        f"--vae={vae}",
        "--num_frames=5",
        "--height=16",
        "--width=16",
        "--batch_size=1",
    )
    result = _program(*flags, "--modalities=rgb,depth")
    assert result.returncode == 0, result.stderr
    assert "encode: 2/2 clips" in result.stdout
    card = shards.read_card(tmp_path / "out")
    assert (card.count, card.latent_shape, card.fps) == (2, (2, 2, 2, 16), 8.0)
    assert [shards.Series(tmp_path / "out", "rgb")[n]["text"] for n in range(2)] == [
        "The one clip.",
        "The two clip.",
    ]
    # The latents are those of the fitted video.
    frames, _ = media.read_video(folder / "two.mp4")
    video = media.to_float(media.fit(frames[:5], height=16, width=16))
    expected = load_encoder(str(vae))(video[None], "rgb")[0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        shards.Series(tmp_path / "out", "rgb")[1]["latents"], expected, atol=2e-3 * scale
    )
    result = _program(*flags, "--modalities=rgb,depth,flow")
    assert result.returncode == 2
    assert "clip 'one': no flow file" in result.stderr


def test_the_program_prepares_several_sizes_of_one_source(tmp_path):
    folder, vae = tmp_path / "clips", stand_ins.save_tiny_vae(tmp_path / "vae")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for key, count in (("long", 6), ("short", 2)):
        frames = rng.integers(0, 255, (count, 24, 32, 3), np.uint8)
        media.write_video(folder / f"{key}.mp4", frames, 8.0)
        (folder / f"{key}.txt").write_text(f"The {key} clip.")
    out = tmp_path / "out"
    flags = (f"--source={folder}", f"--workdir={out}", f"--vae={vae}", "--modalities=rgb")
    result = _program(*flags, "--sizes=5x16x32,1x32x32", "--batch_size=1")
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["5x16x32", "1", "33.3%", "16.7%"] in rows and ["1x32x32", "1", "25.6%", "50.0%"] in rows
    cards = {size: shards.read_card(out / size) for size in ("5x16x32", "1x32x32")}
    assert [card.latent_shape for card in cards.values()] == [(2, 2, 4, 16), (1, 4, 4, 16)]
    assert cards["5x16x32"].cropped == pytest.approx(1 / 3)
    frames, _ = media.read_video(folder / "short.mp4")
    video = media.to_float(media.fit(frames[:1], height=32, width=32))
    expected = load_encoder(str(vae))(video[None], "rgb")[0]
    stored = shards.Series(out / "1x32x32", "rgb")[0]
    assert stored["text"] == "The short clip."
    scale = np.abs(expected).max()
    np.testing.assert_allclose(stored["latents"], expected, atol=2e-3 * scale)
    # One layout per workdir, so that training knows what its name stands for.
    assert "several sizes; give another --workdir" in _program(*flags).stderr


@pytest.mark.slow
def test_the_program_prepares_worlds_as_online_renders_them(tmp_path):
    vae = stand_ins.save_tiny_vae(tmp_path / "vae")
    size = dict(num_frames=5, height=16, width=32)
    result = _program(
        "--source=worlds",
        f"--workdir={tmp_path / 'out'}",
        f"--vae={vae}",
        "--num_clips=2",
        "--batch_size=2",
        *(f"--{name}={value}" for name, value in size.items()),
    )
    assert result.returncode == 0, result.stderr
    card = shards.read_card(tmp_path / "out")
    assert card.modalities == BUILT_IN and card.count == 2
    online = OnlineWorlds(
        dict(kind="online", vae=str(vae), caption_dropout=0.0, registry_prompt_rate=0.5, **size),
        BUILT_IN,
        2,
        0,
        clips_per_group=2,
        stage_weights={"segmentation": 1.0},
    )
    batch = next(online)
    # World 0 has its own prompt, world 1 the registry's, with everything as its truth.
    segmentation = shards.Series(tmp_path / "out", "segmentation")
    asks = [segmentation[n]["text"] == registry.get("segmentation").prompt for n in range(2)]
    assert asks == list(sources.asks_for_all(0, np.arange(2), 0.5)) and len(set(asks)) == 2
    for stream, name in enumerate(("rgb", "segmentation")):
        for n in range(2):
            record = shards.Series(tmp_path / "out", name)[n]
            latents = np.asarray(batch["latents"])[n, stream]
            # Two programs compile to other roundings, which may flip a pixel at an edge.
            error = np.abs(latents - record["latents"]).mean() / np.abs(latents).mean()
            assert error < 0.02
            np.testing.assert_allclose(batch["context"][n, stream], record["embedding"], atol=5e-3)
