import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from unityvideo_jax.errors import UserError
from unityvideo_jax.sampling import solvers

WIGGLES = np.linspace(-2.0, 2.0, 12).reshape(3, 4)


def wiggly_velocity(x, sigma, library=jnp):
    """Smooth and nonlinear in both, for numpy and JAX alike."""
    return library.tanh(x) * (1.5 - sigma) + library.cos(3.0 * sigma) * x[..., ::-1] - 0.3


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


def diffusers_scheduler(solver, steps, shift):
    diffusers = pytest.importorskip("diffusers")
    if solver == "euler":
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
        scheduler.set_timesteps(sigmas=list(np.linspace(1.0, 0.0, steps + 1)[:-1]))
        return scheduler
    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler = {
        "heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=shift),
        "unipc": lambda: diffusers.UniPCMultistepScheduler(solver_order=2, **flow),
        "dpm++": lambda: diffusers.DPMSolverMultistepScheduler(solver_order=2, **flow),
    }[solver]()
    scheduler.set_timesteps(steps)
    return scheduler


# The grid of ours that a scheduler of diffusers has; Heun's, which stops short of 0, is no one's.
GRID_OF = {"euler": "linear", "unipc": "diffusers", "dpm++": "wan"}


@pytest.mark.parametrize(
    ("shift", "steps"), [(5.0, 50), (12.0, 20), (1.0, 12), (3.0, 3), (3.0, 2), (3.0, 1)]
)
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_trajectories_are_those_of_diffusers(solver, steps, shift, parity):
    pytest.importorskip("torch")
    scheduler = diffusers_scheduler(solver, steps, shift)
    levels = scheduler.sigmas.numpy().astype(np.float64)
    if solver in GRID_OF:
        # diffusers keeps its grid in float32, and UniPC's a margin of 1e-6 below sigma 1.
        np.testing.assert_allclose(
            solvers.sigma_grid(steps, shift, GRID_OF[solver]), levels, atol=2e-6
        )
    evaluated = levels[:-1]
    if solver == "heun":  # both evaluations of a step have a level, its end and the next start one
        levels = np.append(levels[:1], levels[1::2])
        evaluated = np.append(levels[:1], np.repeat(levels[1:-1], 2))
    table = solvers.solver_table(solver, levels)
    np.testing.assert_allclose(table.sigma, evaluated, atol=2e-6)

    compare(parity, solver, scheduler, evaluated, table, f"solver {solver}, its own grid")


def compare(parity, solver, scheduler, evaluated, table, name):
    """Every step of diffusers' scheduler with ours on the host; the end with the compiled loop."""
    import torch

    library = f"diffusers {type(scheduler).__name__}"
    sample = torch.from_numpy(WIGGLES.copy())
    for row, (timestep, sigma) in enumerate(zip(scheduler.timesteps, evaluated, strict=True)):
        velocity = torch.from_numpy(wiggly_velocity(sample.numpy(), sigma, np))
        sample = scheduler.step(velocity, timestep, sample).prev_sample.to(torch.float64)
        ours = host_integrate(lambda x, s: wiggly_velocity(x, s, np), WIGGLES, table, row + 1)
        parity(name, library, ours, sample.numpy(), bound=1e-5, relative=False)
    compiled = solvers.integrate(wiggly_velocity, jnp.asarray(WIGGLES, jnp.float32), table)
    parity(name, library, compiled, sample.numpy(), bound=1e-5, relative=False)


@pytest.mark.parametrize("grid", solvers.GRIDS)
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_every_solver_on_every_grid(solver, grid, parity):
    """diffusers' schedulers step over any levels: here they get those of our grids."""
    torch = pytest.importorskip("torch")
    scheduler = diffusers_scheduler(solver, 20, 5.0)
    levels = np.minimum(solvers.sigma_grid(20, 5.0, grid), 1.0 - solvers.SIGMA_MARGIN)
    table = solvers.solver_table(solver, levels)
    scheduler.sigmas = torch.from_numpy(np.append(table.sigma, 0.0))
    scheduler.timesteps = 1000.0 * scheduler.sigmas[:-1]
    scheduler.set_begin_index(0)
    compare(parity, solver, scheduler, table.sigma, table, f"solver {solver}, grid {grid}")


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
    with pytest.raises(UserError, match="choose one of euler, heun, unipc, dpm\\+\\+"):
        solvers.solver_table("rk4", solvers.sigma_grid(4, 1.0))


# The predictor of "dpm++" alone is worst at the ends, where steps in log SNR are widest: at these
# step counts its rate has not reached 2 yet. "unipc" has the same predictor, and corrects it.
@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 0.85), ("heun", 1.85), ("unipc", 1.85), ("dpm++", 1.7)]
)
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
    assert rates.min() > order, (rates, errors)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_compiled_loop_equals_the_table_on_the_host(solver):
    table = solvers.solver_table(solver, solvers.sigma_grid(7, 3.0))
    compiled = solvers.integrate(wiggly_velocity, jnp.asarray(WIGGLES, jnp.float32), table)
    host = host_integrate(lambda x, s: wiggly_velocity(x, s, np), WIGGLES, table)
    np.testing.assert_allclose(compiled, host, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "steps", "evaluations"),
    [("euler", 5, 5), ("heun", 5, 9), ("unipc", 5, 5), ("dpm++", 5, 5)],
)
def test_evaluations_per_step(solver, steps, evaluations):
    table = solvers.solver_table(solver, solvers.sigma_grid(steps, 1.0))
    assert len(table.sigma) == evaluations
    assert table.sigma.min() > 0  # never asks the model about a wanted stream at timestep 0


@pytest.mark.parametrize(
    ("solver", "steps"), [("euler", 400), ("heun", 40), ("unipc", 40), ("dpm++", 80)]
)
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
