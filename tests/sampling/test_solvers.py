import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling import solvers

GOLDEN = pathlib.Path(__file__).parent / "golden" / "unipc.npz"


def golden_velocity(x, sigma):
    """The formula of golden/make_unipc.py."""
    return jnp.tanh(x) * (1.5 - sigma) + jnp.cos(3.0 * sigma) * x[..., ::-1] - 0.3


def host_integrate(velocity, noise, table, rows=None):
    """The table in float64 numpy, so that orders of convergence are not lost in rounding."""
    trial, anchor, d1, d2 = noise, noise, 0.0, 0.0
    for i in range(len(table.sigma) if rows is None else rows):
        v = velocity(trial, table.sigma[i])
        d = table.output[i, 0] * trial + table.output[i, 1] * v
        accepted = sum(
            c * part for c, part in zip(table.accept[i], (trial, anchor, d, d1, d2), strict=True)
        )
        following = sum(
            c * part for c, part in zip(table.advance[i], (accepted, d, d1), strict=True)
        )
        trial, anchor, d1, d2 = following, accepted, d, d1
    return trial


@pytest.mark.parametrize(
    ("case", "shift", "steps"),
    [("shift5_50", 5.0, 50), ("shift1_12", 1.0, 12), ("shift3_2", 3.0, 2), ("shift3_1", 3.0, 1)],
)
def test_unipc_follows_diffusers(case, shift, steps):
    golden = np.load(GOLDEN)
    sigmas = solvers.sigma_grid(steps, shift, "diffusers")
    # diffusers keeps its grid in float32 and a margin of 1e-6 below sigma 1.
    np.testing.assert_allclose(sigmas, golden[f"{case}/sigmas"], atol=2e-6)
    table = solvers.unipc(golden[f"{case}/sigmas"].astype(np.float64))
    trajectory = golden[f"{case}/trajectory"]
    start = jnp.asarray(golden["start"], jnp.float32)
    np.testing.assert_allclose(
        solvers.integrate(golden_velocity, start, table), trajectory[-1], atol=2e-5
    )
    for rows in (1, 2, 3, steps):
        if rows < steps:
            part = solvers.SolverTable(
                **{name: column[:rows] for name, column in vars(table).items()}
            )
            np.testing.assert_allclose(
                solvers.integrate(golden_velocity, start, part), trajectory[rows - 1], atol=2e-5
            )


def test_grids():
    linear = solvers.sigma_grid(4, 1.0)
    np.testing.assert_allclose(linear, [1, 0.75, 0.5, 0.25, 0])
    wan = solvers.sigma_grid(50, 5.0, "wan")
    np.testing.assert_allclose([wan[0], wan[-2]], [0.9998, 0.0925], atol=5e-5)
    diffusers = solvers.sigma_grid(50, 5.0, "diffusers")
    np.testing.assert_allclose([diffusers[0], diffusers[-2]], [1.0, 0.0968], atol=5e-5)
    for grid in solvers.GRIDS:
        sigmas = solvers.sigma_grid(13, 3.0, grid)
        assert len(sigmas) == 14 and sigmas[-1] == 0 and (np.diff(sigmas) < 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1.0, "linear"), "steps=0"),
        ((4, 0.0, "linear"), "shift"),
        ((4, float("nan"), "linear"), "shift"),
        ((4, 1.0, "cosine"), "choose one of linear"),
    ],
)
def test_bad_grid_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        solvers.sigma_grid(*arguments)


def test_unknown_solver_is_named():
    with pytest.raises(UserError, match="choose one of euler, heun, unipc"):
        solvers.solver_table("rk4", solvers.sigma_grid(4, 1.0))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("unipc", 2)])
def test_order_of_convergence(solver, order):
    """Against scipy's adaptive integrator at tolerance 1e-12, on a nonlinear velocity."""

    def velocity(x, sigma):
        return np.sin(2.0 * x) + x * np.cos(3.0 * sigma)

    x1 = np.array([-1.3, 0.2, 0.9])
    exact = scipy.integrate.solve_ivp(
        lambda s, x: velocity(x, s), (1.0, 0.0), x1, rtol=1e-12, atol=1e-12, method="DOP853"
    ).y[:, -1]
    errors = []
    for steps in (64, 128, 256):
        table = solvers.solver_table(solver, solvers.sigma_grid(steps, 1.0))
        errors.append(np.abs(host_integrate(velocity, x1, table) - exact).max())
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert rates.min() > order - 0.15, (rates, errors)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_compiled_loop_equals_the_table_on_the_host(solver):
    x1 = np.linspace(-2.0, 2.0, 8).reshape(2, 4)
    table = solvers.solver_table(solver, solvers.sigma_grid(7, 3.0))
    compiled = solvers.integrate(golden_velocity, jnp.asarray(x1, jnp.float32), table)
    host = host_integrate(lambda x, s: np.asarray(golden_velocity(x, s)), x1, table)
    np.testing.assert_allclose(compiled, host, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "steps", "evaluations"), [("euler", 5, 5), ("heun", 5, 9), ("unipc", 5, 5)]
)
def test_evaluations_per_step(solver, steps, evaluations):
    table = solvers.solver_table(solver, solvers.sigma_grid(steps, 1.0))
    assert len(table.sigma) == evaluations
    assert table.sigma.min() > 0  # never asks the model about a wanted stream at timestep 0


@pytest.mark.parametrize(("solver", "steps"), [("euler", 400), ("heun", 40), ("unipc", 40)])
def test_gaussian_data_is_reached(solver, steps):
    """Data N(mean, std^2): the exact velocity is known, and so is where each noise ends.

    E[x1 - x0 | x_t] for x_t = (1 - t) x0 + t x1, and the flow maps x1 to mean + std * x1.
    """
    mean, std = 0.7, 0.3

    def velocity(x, sigma):
        variance = (1 - sigma) ** 2 * std**2 + sigma**2
        slope = (sigma - (1 - sigma) * std**2) / variance
        return slope * (x - (1 - sigma) * mean) - mean

    noise = jax.random.normal(jax.random.key(3), (20_000,))
    table = solvers.solver_table(solver, solvers.sigma_grid(steps, 1.0))
    sample = solvers.integrate(velocity, noise, table)
    np.testing.assert_allclose(sample, mean + std * noise, atol=0.02)
    assert abs(float(sample.mean()) - mean) < 0.01
    assert abs(float(sample.std()) - std) < 0.01
