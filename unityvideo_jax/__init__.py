"""UnityVideo in JAX: one video diffusion transformer for RGB and five modalities.

    import unityvideo_jax as uv

    pipe = uv.Pipeline.from_workdir("run")
    out = pipe("a dog runs", wanted=("rgb", "depth"), steps=20)
    out.save("dog")

docs/python.md has the rest. Importing the package imports neither JAX nor anything else: each name
below is imported when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Where each name of the package's face is defined; None is a module itself.
_HOMES = {
    "DiT": "models.dit",
    "DiTConfig": "models.config",
    "Pipeline": "sampling.pipeline",
    "Samples": "sampling.samples",
    "SamplerConfig": "sampling.generate",
    "UserError": "errors",
    "load_config": "settings.presets",
    "load_text_encoder": "pretrained.text",
    "load_vae": "pretrained.vae",
    "modalities": None,
    "worlds": None,
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imports a name of `__all__` when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if home is None:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
