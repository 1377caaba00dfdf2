"""Runs of the loop whose step is the same, traced and lowered once: that takes seconds per run."""

import functools

import jax
import pytest

from unityvideo_jax.training import loop, setup


@pytest.fixture(scope="module", autouse=True)
def one_trace_per_step():
    """Gives runs of a module one jitted step per configuration, schedule and layout."""
    steps = {}

    def once(graphdef, layout, *settings, max_traces=None, original=loop.jit_train_step):
        key = (graphdef, *jax.tree.flatten(layout), *settings, max_traces)
        key = tuple(tuple(part) if isinstance(part, list) else part for part in key)
        if key not in steps:
            steps[key] = original(graphdef, layout, *settings, max_traces=max_traces)
        return steps[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "jit_train_step", once)
        # An optimiser is compared by identity.
        patch.setattr(setup, "make_optimizer", functools.cache(setup.make_optimizer))
        yield
