import hashlib
import json

import ml_collections
import numpy as np
import pytest

from unityvideo_jax.files import provenance


def test_config_hash_depends_on_content_alone():
    first = {"b": (1, 2), "a": {"x": 0.5}}
    assert provenance.config_hash(first) == provenance.config_hash({"a": {"x": 0.5}, "b": [1, 2]})
    assert provenance.config_hash(first) == provenance.config_hash(ml_collections.ConfigDict(first))
    assert provenance.config_hash(first) != provenance.config_hash(first | {"b": (1, 3)})


@pytest.mark.parametrize("block", [2, 3, 1 << 28])
def test_file_hash(block, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "HASHED_BYTES", block)
    for name, content in {"a": b"one", "b": b"", "c": b"second"}.items():
        (tmp_path / name).write_bytes(content)
        assert provenance.file_hash(tmp_path / name) == hashlib.sha256(content).hexdigest()
    assert provenance.file_hash(tmp_path) == hashlib.sha256(b"onesecond").hexdigest()


def test_json(tmp_path):
    provenance.write_json(
        tmp_path / "new" / "r.json", {"shape": (1, 2), "n": np.float32(0.5), "path": tmp_path}
    )
    record = json.loads((tmp_path / "new" / "r.json").read_text())
    assert record == {"shape": [1, 2], "n": 0.5, "path": str(tmp_path)}


def test_versions_name_what_computed():
    versions = provenance.versions()
    assert {"unityvideo_jax", "python", "jax", "flax", "device"} <= set(versions)
