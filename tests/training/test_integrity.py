"""Silent corruption on eight virtual devices: found, and laid to the device that has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from synthetic_run import Batches, tiny_config

from unityvideo_jax.errors import UserError
from unityvideo_jax.flow_matching import ObjectiveConfig
from unityvideo_jax.models.dit import DiTConfig
from unityvideo_jax.parallel.mesh import MeshConfig, make_mesh
from unityvideo_jax.parallel.rules import AxisRules, put_batch
from unityvideo_jax.training import integrity, state
from unityvideo_jax.training.curriculum import stages
from unityvideo_jax.training.optimizer import OptimizerConfig, make_optimizer


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=4, fsdp=2))


def _one_bit_off(array, device):
    """The array with the lowest bit of the first element of one device's copy flipped."""
    parts = []
    for shard in array.addressable_shards:
        part = np.array(shard.data)
        if shard.device == device:
            part.reshape(-1)[:1].view(np.uint32)[0] ^= 1
        parts.append(jax.device_put(part, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [((), "float32"), (("fsdp",), "float32"), ((None, ("data", "fsdp")), "float32"), ((), "int32")],
)
def test_one_bit_of_one_copy_names_array_and_device(mesh, spec, dtype):
    spec = PartitionSpec(*spec)
    values = jnp.arange(64).reshape(8, 8).astype(dtype)
    array = jax.device_put(values, NamedSharding(mesh, spec))
    specs = [PartitionSpec(), spec]
    digests = jax.jit(integrity.replica_digests(specs, mesh))
    whole = jax.device_put(values, NamedSharding(mesh, PartitionSpec()))

    def fault(array):
        table = np.asarray(digests([whole, array]))
        return integrity.differing_copies(table, ["whole", "split"], specs, mesh)

    assert fault(array) == ""
    device = mesh.devices.reshape(-1)[5]
    found = fault(_one_bit_off(array, device))
    if "data" in str(spec):
        assert found == ""  # every device holds another part: there is nothing to compare
    else:
        assert found.startswith("split differs between its ")
        assert found.count("device ") == 1 and f"device {device.id} " in found


def test_of_two_copies_both_are_named():
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    table = np.zeros((1, 2, 1, 1, 1, 1), np.uint32)
    table[0, 1] = 7
    found = integrity.differing_copies(table, ["w"], [PartitionSpec()], mesh)
    assert "device 0 " in found and "device 1 " in found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_digest_changes_with_every_element_and_their_order(dtype):
    x = np.random.default_rng(0).normal(size=33)
    changed = [x, x[::-1], *(np.where(np.arange(33) == n, -x, x) for n in range(33))]
    rows = np.stack(changed) > 0 if dtype == "bool" else 99 * np.stack(changed)
    digests = jax.jit(jax.vmap(integrity.digest))(jnp.asarray(rows).astype(dtype))
    assert len(set(digests.tolist())) == len(changed)


def test_check_passes_a_sound_state_and_stops_at_a_changed_one(mesh):
    config = tiny_config()
    config.model.num_layers = 1
    model = DiTConfig(**config.model)
    optimizer = make_optimizer(OptimizerConfig(**config.optimizer), 8)
    graphdef, sound, layout = state.create(
        model, optimizer, mesh, AxisRules(), seed=0, keep_ema=True
    )
    plan = stages(config.curriculum, dict(config.data.modality_weights), 8)
    batch = {k: x for k, x in next(Batches(plan[0])).items() if k != "index"}
    check = integrity.IntegrityCheck(
        graphdef,
        layout,
        mesh,
        ObjectiveConfig(),
        modalities=model.modalities,
        step=0,
        probe=put_batch(batch, AxisRules(), mesh),
    )
    with jax.set_mesh(mesh):
        check(sound, 4)
        leaves, tree = jax.tree.flatten(sound)
        place = next(n for n, x in enumerate(leaves) if x.ndim > 1)
        device = mesh.devices.reshape(-1)[6]
        leaves[place] = _one_bit_off(leaves[place], device)
        with pytest.raises(UserError, match=rf"step 8: params\..* on device {device.id} .*step 4,"):
            check(jax.tree.unflatten(tree, leaves), 8)
        losses = check._losses

        def wrong_the_second_time(*args, calls=[]):  # noqa: B006
            calls.append(None)
            return losses(*args).at[3].multiply(1 + 2**-20 * (len(calls) == 2))

        check._losses = wrong_the_second_time
        # Eight samples over eight devices: row 3 is the fourth's.
        with pytest.raises(UserError, match=r"step 9: the loss of row 3 .* on device \d+ "):
            check(sound, 9)
