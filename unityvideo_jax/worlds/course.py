"""Positions of objects in every frame, given from outside instead of simulated."""

from jaxtyping import Array, Float

from unityvideo_jax.worlds.pytree import pytree


@pytree
class Course:
    """Centres of a clip's objects in metres, in T + 1 frames; the last is the target of flow.

    Objects do not rotate, apart from their `yaw`. Positions need not obey physics, which makes
    pairs of a possible clip and an impossible one.

    Attributes:
      centre: of the objects that are seen.
      caster: of the objects that cast shadows and hide the sky; equal to `centre` unless a shadow
        is to lie elsewhere.
    """

    centre: Float[Array, "*b t o 3"]
    caster: Float[Array, "*b t o 3"]
