"""Calls in threads behave as calls of the caller's."""

import threading

import jax
import pytest

from unityvideo_jax.pretrained.vae import load_vae
from unityvideo_jax.runtime import threads


def test_weights_lie_on_the_callers_default_device():
    device = jax.devices()[3]
    with jax.default_device(device):
        vae = load_vae()
        made = threads.call_all(one=lambda: jax.numpy.ones(2))["one"]
    weights = jax.tree.leaves(vae)
    assert {found for array in (*weights, made) for found in array.devices()} == {device}


def test_results_are_in_order_and_the_first_error_is_raised():
    begun, wait = [], threading.Event()

    def call(number):
        begun.append(number)
        if number == 1:
            raise ValueError("one")
        wait.wait(0.2)
        return -number

    assert threads.map_all(call, (3, 2, 0), 3) == [-3, -2, 0]
    with pytest.raises(ValueError, match="one"):
        threads.map_all(call, (0, 1, *range(2, 100)), 2)
    assert 99 not in begun
