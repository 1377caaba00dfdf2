"""Modalities: prompt, reversible codec, metric, trivial prediction and picture, one module each.

`get("depth").codec.encode(clip)` draws ground truth as video; `decode` reads it back. A further
modality is one file of your own that calls `register` (see `examples/normals.py`).
"""

import importlib

from unityvideo_jax.modalities.base import (
    RGB,
    Clip,
    Codec,
    Modality,
    Rows,
    Side,
    agreements,
    chosen_codec,
    decode_alone,
    get,
    metrics,
    names,
    reads,
    register,
)
from unityvideo_jax.modalities.checks import check_clip

# Their order is that of `names()`, and they are the default wherever modalities are listed.
BUILT_IN = (RGB, "depth", "flow", "segmentation", "skeleton", "densepose")
for _name in BUILT_IN:
    importlib.import_module(f"{__name__}.{_name}")

__all__ = [
    "BUILT_IN",
    "RGB",
    "Clip",
    "Codec",
    "Modality",
    "Rows",
    "Side",
    "agreements",
    "check_clip",
    "chosen_codec",
    "decode_alone",
    "get",
    "metrics",
    "names",
    "reads",
    "register",
]
