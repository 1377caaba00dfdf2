"""A modality of one's own in one file: surface normals in camera axes.

Import this module, or name it to the programs as `--plugins=normals_example`; nothing else changes.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from unityvideo_jax.errors import UserError
from unityvideo_jax.modalities import Modality, checks, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalsCodec:
    """Unit normals f32[T, H, W, 3] (x right, y down, z forward), zero where there is no surface.

    The components are the channels, so black-free grey means no surface.
    """

    keys: ClassVar[tuple[str, ...]] = ("normals",)
    version: ClassVar[str] = "normals-1"
    error_floor: ClassVar[dict[str, float]] = {"degrees": 0.05, "degrees_8bit": 0.6}

    @property
    def default_side(self):
        return {}

    def check(self, clip, source):
        normals = checks.array(clip, "normals", source, (3,))
        checks.finite(normals, f"{source}: normals")
        length = np.linalg.norm(normals, axis=-1)
        if ((np.abs(length - 1) > 1e-3) & (length > 1e-3)).any():
            raise UserError(f"{source}: normals are not of unit length; normalise them")

    def encode(self, clip):
        return jnp.asarray(clip["normals"], jnp.float32), {}

    def decode(self, video, side, **options):
        video = np.asarray(video, np.float32)
        length = np.linalg.norm(video, axis=-1, keepdims=True)
        return {"normals": np.where(length > 0.5, video / np.maximum(length, 1e-6), 0.0)}


NORMALS = register(
    Modality(
        name="normals",
        prompt="surface normals: the direction that every surface faces, as colour",
        pixel_aligned=True,
        sampling_weight=1 / 7,
        codec=NormalsCodec(),
    )
)
