"""Sizes that no device holds are refused by arithmetic, in one line."""

import dataclasses
import math

import jax
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.models import build
from unityvideo_jax.models.config import DiTConfig, parameter_count
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.planning import fit
from unityvideo_jax.runtime import capacity
from unityvideo_jax.settings import presets

TINY = DiTConfig(dim=24, ffn_dim=40, num_heads=2, num_layers=3, text_dim=10, freq_dim=6)


@pytest.mark.parametrize("switcher", ["adaln", "additive", "none"])
@pytest.mark.parametrize("heads", ["per_modality", "shared"])
@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "depth", "flow")])
def test_parameters_are_counted_without_making_them(switcher, heads, modalities):
    config = dataclasses.replace(TINY, switcher=switcher, heads=heads, modalities=modalities)
    state = build.abstract_transformer(config)[1]
    assert parameter_count(config) == sum(math.prod(x.shape) for x in jax.tree.leaves(state))


def test_the_largest_number_of_streams_is_what_must_fit(monkeypatch):
    config = presets.load("worlds_tiny")
    config.train.batch_size = 4096  # so that activations outweigh weights
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    bound = 2**20

    def check():
        monkeypatch.setattr(fit, "device_bytes", lambda device: bound)
        fit.check_training(config, mesh)

    while True:
        try:
            check()
            break
        except UserError:
            bound *= 2
    config.data.streams = (1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert fit.largest(config).streams == 6
    with pytest.raises(UserError, match=r"4096 x 6 streams of 17x64x64 on .* config.data.streams"):
        check()
    config.data.streams = (1.0,)
    check()
    config.curriculum[1]["streams"] = (0, 0, 1)
    assert fit.largest(config).streams == 3
    own, wide = (dict(frames=17, height=n, width=n, streams=1) for n in (64, 256))
    config.curriculum[1]["buckets"] = (own | dict(batch_size=8), wide | dict(batch_size=4096))
    assert fit.largest(config).label == "1 stream of 17x256x256"
    with pytest.raises(UserError, match=r"4096 x 1 stream of 17x256x256 on .* its buckets"):
        check()


def test_bytes_are_shown_as_people_write_them():
    sizes = (0, 1023, 1024, 1536, 3 * 2**30, 2**60, 10**40)
    shown = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "3.0 GiB", "1.0 EiB"]
    assert [capacity.show(n) for n in sizes[:-1]] == shown
    assert capacity.show(sizes[-1]).endswith("EiB")


def test_what_the_host_or_the_disk_cannot_hold_is_refused(tmp_path):
    capacity.check_host(1, "a", "b")
    capacity.check_disk(1, tmp_path / "not" / "there", "a", "b")
    with pytest.raises(UserError, match=r"^--size=9: needs at least .* this machine has .*; less"):
        capacity.check_host(10**30, "--size=9", "less")
    with pytest.raises(UserError, match=r"^--size=9: writes at least .* left; less"):
        capacity.check_disk(10**30, tmp_path / "not" / "there", "--size=9", "less")


def test_a_curriculum_that_is_none_is_named():
    config = presets.load("worlds_tiny")
    with config.unlocked(), config.ignore_type():
        config.curriculum = "two"
    with pytest.raises(UserError, match=r"^config\.curriculum='two': give a tuple"):
        fit.stage_shapes(config)
