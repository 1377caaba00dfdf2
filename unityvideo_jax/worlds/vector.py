"""3-vectors as three arrays, and rotations: one array per component keeps every loop contiguous."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Vec(NamedTuple):
    """Components of equal or broadcastable shape; a trailing axis of 3 would not vectorise."""

    x: Any
    y: Any
    z: Any

    def __add__(self, other: "Vec") -> "Vec":  # type: ignore[override]
        return Vec(self.x + other.x, self.y + other.y, self.z + other.z)

    def __sub__(self, other: "Vec") -> "Vec":
        return Vec(self.x - other.x, self.y - other.y, self.z - other.z)

    def __mul__(self, scale: Any) -> "Vec":  # type: ignore[override]
        return Vec(self.x * scale, self.y * scale, self.z * scale)

    def __neg__(self) -> "Vec":
        return Vec(-self.x, -self.y, -self.z)

    def dot(self, other: "Vec") -> Any:
        """Returns the scalar product, of the components' broadcast shape."""
        return self.x * other.x + self.y * other.y + self.z * other.z

    def unit(self) -> "Vec":
        """Returns vectors of length 1 in the same direction; zero stays zero."""
        return self * (1.0 / jnp.sqrt(jnp.maximum(self.dot(self), 1e-20)))

    def stack(self) -> Float[Array, "... 3"]:
        """Returns the components on a new last axis."""
        return jnp.stack(jnp.broadcast_arrays(self.x, self.y, self.z), axis=-1)


def times(matrix: Float[Array, "... 3 3"], vector: Float[Array, "... 3"]) -> Float[Array, "... 3"]:
    """Matrix-vector products, written out: a matmul would use reduced precision on accelerators."""
    return jnp.sum(matrix * vector[..., None, :], axis=-1)


def compose(a: Float[Array, "... 3 3"], b: Float[Array, "... 3 3"]) -> Float[Array, "... 3 3"]:
    """Returns the matrix products a b, in full float32."""
    # Not as a reduction: jaxlib 0.10 compiles it with YNNPACK, which ends in a segmentation fault
    # on CPUs without AVX-512 for five clips and more.
    first, second, third = (a[..., :, i, None] * b[..., None, i, :] for i in range(3))
    return first + second + third


def _rotation(rows: list[list[Any]]) -> Float[Array, "... 3 3"]:
    flat = jnp.broadcast_arrays(*[jnp.asarray(v, jnp.float32) for row in rows for v in row])
    return jnp.stack(flat, axis=-1).reshape(*flat[0].shape, 3, 3)


def rotate_x(angle: Float[Array, "..."]) -> Float[Array, "... 3 3"]:
    """Rotations about x by angles in radians; y turns towards z."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return _rotation([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def rotate_y(angle: Float[Array, "..."]) -> Float[Array, "... 3 3"]:
    """Rotations about y by angles in radians; z turns towards x."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return _rotation([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def rotate_z(angle: Float[Array, "..."]) -> Float[Array, "... 3 3"]:
    """Rotations about z by angles in radians; x turns towards y."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return _rotation([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
