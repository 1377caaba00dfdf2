"""Meshes and layouts that cannot be are refused by name; those that can are what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel.mesh import MeshConfig, _groups, make_mesh
from unityvideo_jax.parallel.rules import AxisRules, constrain, sharding


def test_one_axis_takes_what_the_others_leave():
    assert MeshConfig(data=-1, tensor=2).shape(8) == (1, 4, 1, 1, 2)
    assert dict(make_mesh(MeshConfig(fsdp=4, context=2)).shape) == {
        "slice": 1,
        "data": 1,
        "fsdp": 4,
        "context": 2,
        "tensor": 1,
    }


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3, "tensor": 2}, "asks for 6 devices .* there are 8"),
        ({"data": -1, "tensor": 3}, "asks for 3 devices .* there are 8"),
        ({"data": -1, "fsdp": -1}, "at most one may be -1"),
        ({"context": 0}, "must be positive"),
    ],
)
def test_meshes_that_do_not_fit_the_devices(sizes, message):
    with pytest.raises(UserError, match=message):
        MeshConfig(**sizes).shape(8)


def test_two_dimensions_over_one_mesh_axis():
    rules = dataclasses.replace(AxisRules(), embed="tensor")
    with pytest.raises(UserError, match=r"\('embed', 'mlp'\) splits two .* mesh axis 'tensor'"):
        rules.spec(("embed", "mlp"))
    with pytest.raises(UserError, match=r"'width' is unknown; rules exist for .*'embed'"):
        rules.spec(("width",))


def test_sizes_that_do_not_divide_name_the_weight():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    with pytest.raises(UserError, match="blocks/q: logical axis 'embed' of size 6 does not divide"):
        sharding((6, 8), ("embed", "heads"), AxisRules(), mesh, "blocks/q")
    with pytest.raises(UserError, match="blocks/q: 1 dimensions but"):
        sharding((8,), ("embed", "heads"), AxisRules(), mesh, "blocks/q")
    layout = sharding((8, 8), ("embed", "heads"), AxisRules(), mesh)
    assert layout.shard_shape((8, 8)) == (2, 4)


def test_activations_are_split_where_they_divide():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, context=2))
    axes = ("batch", None, "tokens", None)

    def layout(shape):
        with jax.set_mesh(mesh):
            made = jax.jit(lambda: constrain(jnp.zeros(shape), axes))()
        return made.sharding.shard_shape(shape)

    assert layout((8, 2, 6, 5)) == (2, 2, 3, 5)
    assert layout((3, 2, 6, 5)) == (3, 2, 3, 5)
    assert layout((8, 2, 7, 5)) == (2, 2, 7, 5)
    assert constrain(jnp.zeros((3, 2, 6, 5)), axes).shape == (3, 2, 6, 5)


def test_slices_hold_neighbouring_devices():
    mesh = make_mesh(MeshConfig(slice=2, data=1, fsdp=2, tensor=2))
    assert mesh.devices.shape == (2, 1, 2, 1, 2)
    assert [{d.id for d in part.flat} for part in mesh.devices] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_slices_follow_the_hardware():
    class Chip:
        def __init__(self, index, part):
            self.id, self.slice_index, self.process_index = index, part, index

    chips = [Chip(index, index % 2) for index in range(8)]
    assert [{c.id for c in group} for group in _groups(chips, 2)] == [{0, 2, 4, 6}, {1, 3, 5, 7}]
    with pytest.raises(UserError, match="slice=4 does not fit 2 slices and 8 processes"):
        _groups(chips, 4)
