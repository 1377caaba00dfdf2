"""Functions of arrays that are kept as exports stand for kernels; the mechanism is the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unityvideo_jax.kernels import stored

WRITTEN = []


def _attend(q, k):
    weights = jax.nn.softmax(jnp.einsum("bnd,bmd->bnm", q, k))
    return jnp.einsum("bnm,bmd->bnd", weights, k), weights.max(-1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    export = stored.export.export

    def count(function, **options):
        WRITTEN.append(function)
        return export(function, **options)

    monkeypatch.setattr(stored.export, "export", count)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    _new_process()
    yield tmp_path / "kernels"
    jax.config.update("jax_compilation_cache_dir", before)


def _new_process():
    stored._kernel.cache_clear()
    WRITTEN.clear()


def _call(q, k, version="1", registered=None):
    register = (lambda: ()) if registered is None else (lambda: registered.append(1) or ())
    return stored.call(_attend, q, k, platform="cpu", version=version, register=register)


def _arrays(keys=5):
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.standard_normal((2, n, 4)), jnp.float32) for n in (3, keys))


def test_another_process_reads_what_one_wrote(place):
    q, k = _arrays()
    assert not stored.are_any()
    expected = _attend(q, k)
    _new_process()
    outs, files = [], []
    for written in (1, 0):
        registered = []
        outs.append(jax.jit(functools.partial(_call, registered=registered))(q, k))
        assert len(WRITTEN) == written and registered == [1]
        assert stored.are_any()
        files.append({file.name: file.read_bytes() for file in place.iterdir()})
        _new_process()
    assert files[0] == files[1] and len(files[0]) == 1
    for out in outs:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), out, expected)


def test_a_kept_kernel_is_differentiated_by_its_own_rule(place):
    """As `flash.attention` is: recomputed in the layers of a scan."""

    @jax.custom_vjp
    def attention(q, k):
        return _call(q, k)[0]

    def backward(kept, gradient):
        return jax.vjp(lambda q, k: _attend(q, k)[0], *kept)[1](gradient)

    attention.defvjp(lambda q, k: (_call(q, k)[0], (q, k)), backward)

    def loss(attend, q, k):
        layer = jax.checkpoint(lambda x, _: (jnp.tanh(attend(x, k)), None))
        return jax.lax.scan(layer, q, None, length=3)[0].sum()

    q, k = _arrays()
    plain = jax.grad(functools.partial(loss, lambda q, k: _attend(q, k)[0]), argnums=(0, 1))(q, k)
    for _ in range(2):
        ours = jax.jit(jax.grad(functools.partial(loss, attention), argnums=(0, 1)))(q, k)
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        _new_process()


def test_other_shapes_and_versions_are_other_kernels(place):
    for version, keys in (("1", 5), ("2", 5), ("1", 6), ("1", 5)):
        _call(*_arrays(keys), version)
    assert len(list(place.iterdir())) == 3 == len(WRITTEN)


@pytest.mark.parametrize(
    "damage", [lambda x: x[:-1], lambda x: x[:40] + b"?" + x[41:], lambda x: b""]
)
def test_a_damaged_kernel_is_written_anew(damage, place):
    q, k = _arrays()
    _call(q, k)
    (file,) = place.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    _new_process()
    _call(q, k)
    assert len(WRITTEN) == 1 and file.read_bytes() == whole


def test_without_a_place_nothing_is_kept(place, tmp_path):
    q, k = _arrays()
    for nowhere in (None, "gs://bucket/cache"):
        jax.config.update("jax_compilation_cache_dir", nowhere)
        assert stored.folder() is None and not stored.are_any()
        np.testing.assert_array_equal(_call(q, k)[0], _attend(q, k)[0])
    assert not WRITTEN
    # A file where the folder should be: it costs time, and no run.
    (tmp_path / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    np.testing.assert_allclose(_call(q, k)[0], _attend(q, k)[0], rtol=1e-6)
    assert len(WRITTEN) == 1 and not place.exists()


def test_programs_of_several_devices_write_their_own(place):
    q, k = _arrays()
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        out, _ = jax.jit(_call)(q, k)
    np.testing.assert_allclose(out, _attend(q, k)[0], rtol=1e-6)
    assert not place.exists()
