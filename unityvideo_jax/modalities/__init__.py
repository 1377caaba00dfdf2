"""Modalities: names, prompts and reversible codecs, one module each.

`get("depth").codec.encode(clip)` draws ground truth as video; `decode` reads it back. A further
modality is one file of your own that calls `register` (see `tests/modalities/normals_example.py`).
"""

import importlib

from unityvideo_jax.modalities.base import (
    Clip,
    Codec,
    Modality,
    Side,
    chosen_codec,
    decode_alone,
    get,
    names,
    reads,
    register,
)
from unityvideo_jax.modalities.checks import check_clip

# Their order is the order of `names()`, hence of the default `model.modalities`.
BUILT_IN = ("rgb", "depth", "flow", "segmentation", "skeleton", "densepose")
for _name in BUILT_IN:
    importlib.import_module(f"{__name__}.{_name}")

__all__ = [
    "BUILT_IN",
    "Clip",
    "Codec",
    "Modality",
    "Side",
    "check_clip",
    "chosen_codec",
    "decode_alone",
    "get",
    "names",
    "reads",
    "register",
]
