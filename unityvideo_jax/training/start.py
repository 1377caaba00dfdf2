"""The first weights of a run: those of a conversion, or of a run with perhaps other modalities."""

import dataclasses
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from unityvideo_jax.checkpoints import sources
from unityvideo_jax.models import backbone, build
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.training.state import TrainState


def start_from(
    state: TrainState,
    model: DiTConfig,
    source: str | os.PathLike,
    fallback: bool = False,
    log: Callable[[str], None] = print,
) -> TrainState:
    """Returns a fresh state with the weights of a model, a conversion, or another run's average.

    Modalities are matched by name, see `models.backbone.map_weights`: a run on RGB alone, or a
    converted Wan, starts a run on several modalities, and one on six starts one on seven.

    Args:
      state: as `state.create` makes it; what is replaced of its parameters is freed first, so that
        the devices never hold both.
      model: of `state`.
      source: folder of a model, workdir of the conversion or run, or the name of a model that ships
        with the package.
      fallback: as `find` takes it.
      log: takes a line for modalities that the source lacks, and for those that it alone has.

    Raises:
      UserError: no weights there, or those of another model.
    """
    found = sources.find(source, fallback=fallback)
    theirs, mapped = found.model, sources.map_weights(model, found)
    for line in backbone.differences(model, theirs, source):
        log(line)
    fresh = dict(nnx.to_flat_state(state.params))
    layouts = {path: fresh[path][...].sharding for path in mapped}
    for tree in (state.params, state.ema):
        for path, weight in nnx.to_flat_state(tree) if tree is not None else ():
            for array in jax.tree.leaves(weight) if path in mapped else ():
                array.delete()
    # No axis of modalities is split, so that one layout serves both numbers of rows.
    target = nnx.from_flat_state(
        {
            path: weight.replace(
                jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=layouts[path])
            )
            for path, weight in nnx.to_flat_state(build.abstract_transformer(theirs)[1])
        }
    )
    loaded = dict(nnx.to_flat_state(found.load(target)))
    for path, rows in mapped.items():
        value = loaded.pop(path)[...]
        if rows is not None:
            value = jax.jit(backbone.take_rows, static_argnums=1, out_shardings=layouts[path])(
                value, rows
            )
        fresh[path] = fresh[path].replace(value)
    params = nnx.from_flat_state(fresh)
    params = jax.tree.unflatten(jax.tree.structure(state.params), jax.tree.leaves(params))
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema=ema)
