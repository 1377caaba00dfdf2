from flax import nnx
from tiny_pipeline import quick_compile, tiny_parts  # noqa: F401

from unityvideo_jax.evaluation import facts
from unityvideo_jax.sampling.pipeline import Pipeline


def test_rows_depend_on_the_weights_and_on_how_they_are_held():
    pipelines = [Pipeline(**tiny_parts()) for _ in range(3)]
    first, same, other = map(facts.weights_digest, pipelines)
    assert first == same == other
    kernel = next(leaf for path, leaf in nnx.to_flat_state(pipelines[1].params) if "kernel" in path)
    kernel[...] = kernel[...].at[..., 0].add(1e-3)
    pipelines[2].hold_weights("int8")
    assert len({first, *map(facts.weights_digest, pipelines[1:])}) == 3
