"""Fingerprints recognise data and weights wherever they lie, and tell them from others."""

import shutil

import pytest
import stand_ins

from unityvideo_jax.files import provenance
from unityvideo_jax.inputs import shards
from unityvideo_jax.inputs.config import as_data_config
from unityvideo_jax.inputs.fingerprints import fingerprints


def _of(*dirs, **overrides):
    return fingerprints(as_data_config(stand_ins.config(*dirs, **overrides)))["data.dirs"]


def test_shards_that_moved_are_the_same_and_others_are_not(noise_dir, other_dir, tmp_path):
    moved = shutil.copytree(noise_dir, tmp_path / "moved")
    (here,) = _of(noise_dir)
    assert _of(moved, other_dir) == (here, *_of(other_dir))
    assert _of(other_dir) != (here,)
    # A series that is not drawn may come and go.
    depth = {"modality_weights": {"depth": 1.0}}
    before = _of(moved, **depth)
    shutil.rmtree(shards.series_path(moved, "flow"))
    assert _of(moved, **depth) == before
    # One byte of one record.
    file = sorted(shards.series_path(moved, "depth").glob("*array_record*"))[0]
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    file.write_bytes(content)
    assert _of(moved, **depth) != before


def test_the_same_clips_in_another_order_are_others(noise_dir, tmp_path):
    source = stand_ins.NoiseSource(10)
    load = source.load
    source.keys = source.keys[::-1]
    source.load = lambda indices, modalities: load([9 - n for n in indices], modalities)
    stand_ins.prepare(
        source,
        stand_ins.encoder(),
        stand_ins.HashTexts(),
        workdir=tmp_path,
        modalities=stand_ins.MODALITIES,
        chunk_size=4,
        batch_size=2,
        **stand_ins.SIZE,
    )
    assert _of(tmp_path) != _of(noise_dir)


def test_weights_of_text_encoders_are_known_by_their_files(tmp_path):
    def of(folder):
        config = stand_ins.config(kind="online", text_encoder=f"umt5:{folder}")
        return fingerprints(as_data_config(config))["data.text_encoder"]

    for name in ("tokenizer/tokenizer.json", "text_encoder/model.safetensors"):
        (tmp_path / "a" / name).parent.mkdir(parents=True)
        (tmp_path / "a" / name).write_text(name)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert of(tmp_path / "a") == of(tmp_path / "b")
    assert of(tmp_path / "c") is None
    (tmp_path / "b" / "text_encoder" / "model.safetensors").write_text("other")
    assert of(tmp_path / "a") != of(tmp_path / "b")


@pytest.mark.parametrize("place", [0, 3 << 20, (4 << 20) - 1])
def test_large_files_are_told_apart_by_a_sample_of_their_bytes(tmp_path, place):
    file = tmp_path / "large"
    content = bytearray(4 << 20)
    file.write_bytes(content)
    before = provenance.sampled_hash([file])
    content[place] = 1
    file.write_bytes(content)
    assert provenance.sampled_hash([file]) != before
