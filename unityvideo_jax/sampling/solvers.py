"""Solvers for the sampling ODE dx/dsigma = v(x, sigma), from noise (sigma 1) to data (sigma 0).

Every solver used here is linear in the samples and model outputs it has seen, with coefficients
that depend on the sigma grid alone. So a solver is a table of coefficients, computed once on the
host in float64 (UniPC subtracts logarithms of numbers next to 1, which float32 cannot), and one
`lax.scan` with a single model call in its body runs all of them.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from unityvideo_jax.errors import UserError

GRIDS = ("linear", "wan", "diffusers")

# The number of training timesteps that the Wan grids are defined by.
TRAIN_TIMESTEPS = 1000
# Far more than samples gain from; the coefficients of all steps are computed at once.
MAX_STEPS = 10_000
# UniPC works in log((1 - sigma) / sigma), infinite at sigma 1; diffusers takes the same margin.
SIGMA_MARGIN = 1e-6


def shift_sigmas(sigmas: Float[np.ndarray, " n"], shift: float) -> Float[np.ndarray, " n"]:
    """Shift * s / (1 + (shift - 1) * s): spends more of the steps at high noise if shift > 1."""
    return shift * sigmas / (1.0 + (shift - 1.0) * sigmas)


def sigma_grid(steps: int, shift: float, grid: str = "linear") -> Float[np.ndarray, " levels"]:
    """Returns noise levels from the first evaluation down to exactly 0, float64.

    Args:
      steps: number of solver steps, at least 1.
      shift: timestep shift, above 0; 1 leaves the grid as it is.
      grid: "linear", 1 to 0 in equal steps (the public release); "wan", the original Wan 2.1
        UniPC grid, which starts at 999/1000 before the shift (also diffusers' for DPM-Solver++);
        "diffusers", the grid of its UniPC flow sigmas since January 2026.

    Returns:
      steps + 1 levels, strictly decreasing.

    Raises:
      UserError: steps, shift or grid out of range.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise UserError(f"steps={steps}: the sampler takes 1 to {MAX_STEPS} steps")
    if not (math.isfinite(shift) and shift > 0):
        raise UserError(f"shift={shift}: the timestep shift must be a positive number")
    if grid == "linear":
        levels = np.linspace(1.0, 0.0, steps + 1)[:-1]
    elif grid == "wan":
        levels = 1.0 - np.linspace(1.0 / TRAIN_TIMESTEPS, 1.0, steps + 1)[:-1]
    elif grid == "diffusers":
        levels = np.linspace(1.0, 1.0 / TRAIN_TIMESTEPS, steps + 1)[:-1]
    else:
        raise UserError(f"grid={grid!r}: unknown sigma grid; choose one of {', '.join(GRIDS)}")
    return np.append(shift_sigmas(levels, shift), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverTable:
    """One row per model evaluation.

    In each row the model is evaluated at the trial point y, giving the velocity v, and then
      output   d  = output[0] * y + output[1] * v
      accepted x  = accept . (y, anchor, d, d_1, d_2)
      trial    y' = advance . (x, d, d_1)
    where anchor is the sample accepted one row earlier and d_1, d_2 the outputs one and two rows
    earlier. The last row's y' is the result.

    Attributes:
      sigma: noise level of each row.
      output, accept, advance: the coefficients above.
    """

    sigma: Float[np.ndarray, " rows"]
    output: Float[np.ndarray, "rows 2"]
    accept: Float[np.ndarray, "rows 5"]
    advance: Float[np.ndarray, "rows 3"]


def euler(sigmas: Float[np.ndarray, " n"]) -> SolverTable:
    """Returns Euler's table: first order, one evaluation per step.

    Args:
      sigmas: noise levels at the ends of the steps, decreasing.
    """
    rows = len(sigmas) - 1
    return SolverTable(
        sigma=sigmas[:-1],
        output=np.tile([0.0, 1.0], (rows, 1)),
        accept=np.tile([1.0, 0.0, 0.0, 0.0, 0.0], (rows, 1)),
        advance=np.stack([np.ones(rows), np.diff(sigmas), np.zeros(rows)], axis=1),
    )


def heun(sigmas: Float[np.ndarray, " n"]) -> SolverTable:
    """Returns Heun's table: second order, two evaluations per step, except for the last one.

    The step down to sigma 0 is Euler's: at timestep 0 the model takes a stream for a given one,
    so its velocity there is not the path's. One first-order step leaves the global order at 2.

    Args:
      sigmas: noise levels at the ends of the steps, decreasing.
    """
    level, accept, advance = [], [], []
    for now, after in itertools.pairwise(sigmas):
        step = after - now
        level.append(now)
        accept.append([1.0, 0.0, 0.0, 0.0, 0.0])
        advance.append([1.0, step, 0.0])
        if after > 0:
            level.append(after)
            accept.append([0.0, 1.0, step / 2, step / 2, 0.0])
            advance.append([1.0, 0.0, 0.0])
    return SolverTable(
        sigma=np.array(level),
        output=np.tile([0.0, 1.0], (len(level), 1)),
        accept=np.array(accept),
        advance=np.array(advance),
    )


def unipc(sigmas: Float[np.ndarray, " n"]) -> SolverTable:
    """Returns the table of UniPC of order 2 (Zhao et al. 2023), "bh2", as Wan 2.1 samples.

    B(h) = exp(h) - 1, and the model's output is x_0. One evaluation per step: the output at the
    trial point first corrects that point, then predicts the next one. The first and the last step
    are of order 1.
    """
    return _multistep(sigmas, corrects=True)


def dpmpp(sigmas: Float[np.ndarray, " n"]) -> SolverTable:
    """The table of DPM-Solver++(2M) (Lu et al. 2022), midpoint form, Wan 2.1's other solver.

    It is the predictor of `unipc` alone: second order, one evaluation per step, no correction.
    """
    return _multistep(sigmas, corrects=False)


def _multistep(sigmas: Float[np.ndarray, " n"], *, corrects: bool) -> SolverTable:
    levels = np.minimum(sigmas, 1.0 - SIGMA_MARGIN)
    rows = len(levels) - 1
    alpha = 1.0 - levels
    # The log signal-to-noise ratio; infinite at sigma 0, which only the last, order-1 step sees.
    with np.errstate(divide="ignore"):
        log_snr = np.log(alpha) - np.log(levels)
    output = np.stack([np.ones(rows), -levels[:-1]], axis=1)
    accept = np.tile([1.0, 0.0, 0.0, 0.0, 0.0], (rows, 1))
    advance = np.zeros((rows, 3))
    orders = [min(2, i + 1, rows - i) for i in range(rows)]
    for i in range(rows):
        if corrects and i > 0:
            accept[i] = _correct(i, orders[i - 1], levels, alpha, log_snr)
        advance[i] = _predict(i, orders[i], levels, alpha, log_snr)
    return SolverTable(sigma=levels[:-1], output=output, accept=accept, advance=advance)


def _predict(i, order, levels, alpha, log_snr):
    """Coefficients of (x_i, d_i, d_{i-1}) in x_{i+1}."""
    h = log_snr[i + 1] - log_snr[i]
    growth = math.expm1(-h)
    row = np.array([levels[i + 1] / levels[i], -alpha[i + 1] * growth, 0.0])
    if order == 2:
        ratio = (log_snr[i - 1] - log_snr[i]) / h
        weight = -alpha[i + 1] * growth * 0.5 / ratio
        row += weight * np.array([0.0, -1.0, 1.0])
    return row


def _correct(i, order, levels, alpha, log_snr):
    """Coefficients of (y_i, x_{i-1}, d_i, d_{i-1}, d_{i-2}) in the corrected x_i."""
    h = log_snr[i] - log_snr[i - 1]
    growth = math.expm1(-h)
    row = np.array([0.0, levels[i] / levels[i - 1], 0.0, -alpha[i] * growth, 0.0])
    if order == 1:
        older, newest = 0.0, 0.5
        ratio = 1.0
    else:
        # Two conditions of order: [[1, 1], [ratio, 1]] rho = b.
        ratio = (log_snr[i - 2] - log_snr[i - 1]) / h
        phi_2 = growth / -h - 1.0
        phi_3 = phi_2 / -h - 0.5
        older, newest = np.linalg.solve(
            [[1.0, 1.0], [ratio, 1.0]], [phi_2 / growth, 2.0 * phi_3 / growth]
        )
    scale = -alpha[i] * growth
    row += scale * newest * np.array([0.0, 0.0, 1.0, -1.0, 0.0])
    row += scale * older / ratio * np.array([0.0, 0.0, 0.0, -1.0, 1.0])
    return row


SOLVERS = {"euler": euler, "heun": heun, "unipc": unipc, "dpm++": dpmpp}


def solver_table(solver: str, sigmas: Float[np.ndarray, " n"]) -> SolverTable:
    """Returns the table of a solver by name; UserError if there is none of that name."""
    if solver not in SOLVERS:
        raise UserError(f"solver={solver!r}: unknown solver; choose one of {', '.join(SOLVERS)}")
    with np.errstate(divide="ignore", invalid="ignore"):
        table = SOLVERS[solver](sigmas)
    if not all(np.isfinite(one).all() for one in vars(table).values()):
        raise UserError(
            f"solver={solver!r}: at this shift some of the {len(sigmas) - 1} steps have no length; "
            "give a shift nearer to 1, or fewer steps"
        )
    return table


def integrate(
    velocity: Callable[[Array, Array], Array],
    noise: Float[Array, "*shape"],
    table: SolverTable,
    *,
    joins: Float[Array, "*cells"] | None = None,
) -> Float[Array, "*shape"]:
    """Runs a solver from noise to data in one compiled loop.

    Args:
      velocity: (x, scalar sigma) -> dx/dsigma, of x's shape.
      noise: the sample at the grid's first level.
      table: from `solver_table`.
      joins: level of each value at which its velocity becomes another function, of a shape that
        broadcasts to x's; the solver starts anew there, since no order holds across the change.

    Returns:
      The sample at sigma 0, float32.
    """

    def forgetful(x: Array, sigma: Array, memory: None, row: None) -> tuple[Array, None, None]:
        del memory, row
        return velocity(x, sigma), None, None

    return integrate_remembering(forgetful, noise, table, memory=None, rows=None, joins=joins)[0]


def integrate_remembering(
    velocity: Callable[[Array, Array, Any, Any], tuple[Array, Any, Any]],
    noise: Float[Array, "*shape"],
    table: SolverTable,
    *,
    memory: Any,
    rows: Any,
    joins: Float[Array, "*cells"] | None = None,
) -> tuple[Float[Array, "*shape"], Any]:
    """Runs a solver whose velocity has a memory, from one evaluation to the next.

    Args:
      velocity: (x, scalar sigma, memory, row) -> dx/dsigma, the next memory, and what it reports.
      noise, table, joins: as `integrate` takes them.
      memory: of the first evaluation, a tree of arrays.
      rows: a tree of arrays with one entry per evaluation on their first axis.

    Returns:
      The sample at sigma 0, float32, and the reports, stacked on a first axis.
    """
    table_f32 = jax.tree.map(
        lambda column: jnp.asarray(column, jnp.float32), dataclasses.asdict(table)
    )

    def step(carry, inputs):
        row, own = inputs
        trial, anchor, output_1, output_2, memory = carry
        v, memory, report = velocity(trial, row["sigma"], memory, own)
        v = v.astype(jnp.float32)
        output = row["output"][0] * trial + row["output"][1] * v
        a = row["accept"]
        accepted = a[0] * trial + a[1] * anchor + a[2] * output + a[3] * output_1 + a[4] * output_2
        if joins is not None:
            now = (row["before"] > joins) & (row["sigma"] <= joins)
            accepted, output_1 = jnp.where(now, trial, accepted), jnp.where(now, output, output_1)
        b = row["advance"]
        following = b[0] * accepted + b[1] * output + b[2] * output_1
        return (following, accepted, output, output_1, memory), report

    table_f32["before"] = jnp.concatenate([table_f32["sigma"][:1], table_f32["sigma"][:-1]])
    start = noise.astype(jnp.float32)
    zero = jnp.zeros_like(start)
    (result, *_), reports = jax.lax.scan(
        step, (start, start, zero, zero, memory), (table_f32, rows)
    )
    return result, reports
