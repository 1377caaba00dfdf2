"""The straight path from data to noise, and its velocity.

x_t = (1 - t) x_0 + t x_1 with x_1 ~ N(0, I), so dx/dt = x_1 - x_0 (UnityVideo sec. 3.1); t = 0 is
clean, t = 1 is noise. A timestep belongs to a stream: arrays are [B, S, ...] with t [B, S].
"""

from collections.abc import Callable

from jaxtyping import Array, Float

# (latents [B,S,t,h,w,C], timestep [B,S], modality [B,S], context [B,S,L,D]) -> velocity as latents.
# With first frames given, also clean=[B,S,t]: the latent frames at t = 0 whatever the timestep.
# Flow matching and sampling know nothing else of a model.
VelocityFn = Callable[..., Array]


def expand(timestep: Float[Array, "b s"], like: Float[Array, "b s ..."]) -> Float[Array, "b s ..."]:
    """Returns timesteps with trailing axes of size one, to broadcast over each stream of `like`."""
    return timestep.reshape(*timestep.shape, *(1,) * (like.ndim - timestep.ndim))


def interpolate(
    clean: Float[Array, "b s ..."], noise: Float[Array, "b s ..."], timestep: Float[Array, "b s"]
) -> Float[Array, "b s ..."]:
    """Returns x_t: exactly `clean` at t = 0 and exactly `noise` at t = 1."""
    t = expand(timestep, clean)
    return (1.0 - t) * clean + t * noise


def velocity(
    clean: Float[Array, "b s ..."], noise: Float[Array, "b s ..."]
) -> Float[Array, "b s ..."]:
    """Returns dx_t/dt along the path: the target of the model."""
    return noise - clean


def predict_clean(
    noised: Float[Array, "b s ..."],
    predicted: Float[Array, "b s ..."],
    timestep: Float[Array, "b s"],
) -> Float[Array, "b s ..."]:
    """Returns the x_0 that a velocity implies at x_t: where its straight line meets t = 0."""
    return noised - expand(timestep, noised) * predicted


def predict_noise(
    noised: Float[Array, "b s ..."],
    predicted: Float[Array, "b s ..."],
    timestep: Float[Array, "b s"],
) -> Float[Array, "b s ..."]:
    """Returns the x_1 that a velocity implies at x_t: where its straight line meets t = 1."""
    return noised + (1.0 - expand(timestep, noised)) * predicted
