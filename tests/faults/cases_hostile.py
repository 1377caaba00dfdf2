"""Data that tries to run code, to write outside its folder, or to pass for our own words."""

import json
import pathlib
import sys

import numpy as np

from tests.faults.harness import Case
from unityvideo_jax import modalities as registry
from unityvideo_jax.inputs import shards

LATENT, TEXT = (1, 2, 2, 4), (3, 5)


def _shards(folder: pathlib.Path) -> pathlib.Path:
    """A finished dataset of three tiny clips with one series."""
    side = {name: np.zeros(shape, np.float32) for name, shape in shards.side_shapes("rgb").items()}

    def records():
        for n in range(3):
            record = {
                "key": f"clip-{n}",
                "latents": np.full(LATENT, n, np.float16),
                "text": f"clip {n}",
                "embedding": np.zeros(TEXT, np.float16),
            }
            yield record | ({"side": side} if side else {})

    series = shards.write_series(
        folder,
        "rgb",
        records,
        count=3,
        latent_shape=LATENT,
        embedding_shape=TEXT,
        side_shapes=shards.side_shapes("rgb"),
    )
    card = shards.Card(
        count=3,
        num_frames=1,
        height=16,
        width=16,
        fps=8.0,
        latent_shape=LATENT,
        vae="none",
        text_encoder="none",
        text_length=TEXT[0],
        text_dim=TEXT[1],
        modalities=("rgb",),
        codecs={"rgb": registry.get("rgb").codec.version},
        settings={},
    )
    shards.write_card(folder, card)
    return series


def _runs_code(features: dict):
    """Opens and reads shards whose features.json is replaced; nothing that it names may run."""

    def act(folder: pathlib.Path) -> None:
        series = _shards(folder / "data")
        marker = folder / "marker"
        (folder / "evil_features.py").write_text(
            f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Evil: pass\n"
        )
        (series / "features.json").write_text(json.dumps(features))
        sys.path.insert(0, str(folder))
        try:
            read = shards.Series(folder / "data", "rgb")[2]
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("evil_features", None)
            assert not marker.exists(), "code named by the data ran"
        assert read["key"] == "clip-2" and read["latents"].shape == LATENT

    return act


CASES = [
    Case(kind="runs code", name=f"features.json {name}", act=_runs_code(features))
    for name, features in {
        "class": {"pythonClassName": "evil_features.Evil", "featuresDict": {"features": {}}},
        "inner class": {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "featuresDict": {"features": {"key": {"pythonClassName": "evil_features.Evil"}}},
        },
        "legacy type": {"type": "evil_features.Evil", "content": {}},
        "legacy proto": {
            "type": "tensorflow_datasets.core.features.text_feature.Text",
            "proto_cls": "evil_features.Evil",
            "content": "{}",
        },
    }.items()
]
