"""Runs of the loop whose step is the same, traced and lowered once: that takes seconds per run.

Likewise the shapes of their model, and its first weights.
"""

import functools

import jax
import numpy as np
import pytest

from unityvideo_jax.models import build
from unityvideo_jax.training import loop, setup
from unityvideo_jax.training import state as state_lib


@pytest.fixture(scope="module", autouse=True)
def one_trace_per_step():
    """Gives runs of a module one jitted step per configuration, schedule and layout."""
    steps, states = {}, {}

    def once(graphdef, layout, *settings, max_traces=None, original=loop.jit_train_step):
        key = (graphdef, *jax.tree.flatten(layout), *settings, max_traces)
        key = tuple(tuple(part) if isinstance(part, list) else part for part in key)
        if key not in steps:
            steps[key] = original(graphdef, layout, *settings, max_traces=max_traces)
        return steps[key]

    def create(*args, original=state_lib.create, **settings):
        key = (*args, *settings.items())
        if key not in states:
            graphdef, state, layout = original(*args, **settings)
            # In memory that no step is donated; frozen weights are shapes.
            leaves, tree = jax.tree.flatten(state)
            kept = [
                (np.array(x), x.sharding) if isinstance(x, jax.Array) else (x, None) for x in leaves
            ]
            states[key] = graphdef, kept, tree, layout
        graphdef, kept, tree, layout = states[key]
        leaves = [
            x if where is None else jax.device_put(x, where, may_alias=False) for x, where in kept
        ]
        return graphdef, jax.tree.unflatten(tree, leaves), layout

    abstract = functools.cache(build.abstract_transformer)

    def shapes(*args, **options):
        graphdef, state = abstract(*args, **options)
        return graphdef, jax.tree.map(lambda x: x, state)

    # An optimiser is compared by identity; runs record the length of their schedule.
    make = functools.cache(setup.make_optimizer)

    def optimizer(optim, steps):
        return make(optim, optim.schedule_steps or steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "jit_train_step", once)
        patch.setattr(state_lib, "create", create)
        patch.setattr(build, "abstract_transformer", shapes)
        patch.setattr(setup, "make_optimizer", optimizer)
        yield
