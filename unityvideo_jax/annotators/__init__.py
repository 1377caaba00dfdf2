"""Networks and classical methods that draw modalities from video, weights from a local folder.

`ANNOTATORS[modality][name]()` is a frozen dataclass: its fields are its parameters, `setup` loads
it, and calling it on frames u8[t,h,w,3] gives the arrays of the modality's codec. Each one's
`licence` says what its weights allow; the first of every modality is permissive. Packages are
imported only by the annotator that needs them.
"""

from collections.abc import Callable, Mapping
from typing import Any


def _in(module: str, name: str) -> Callable[[], Any]:
    def kind() -> Any:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

    return kind


ANNOTATORS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "depth": {
        "depth_anything_v2": _in("depth", "DepthAnything"),
        "video_depth": _in("depth", "VideoDepth"),
    },
    "flow": {"dis": _in("flow", "DIS"), "raft": _in("flow", "RAFT")},
    "segmentation": {
        "sam2": _in("sam2", "SAM2"),
        "mask2former": _in("mask2former", "Mask2Former"),
    },
    "skeleton": {"vitpose": _in("skeleton", "ViTPose")},
    "densepose": {"torchscript": _in("densepose", "DensePoseScript")},
}
