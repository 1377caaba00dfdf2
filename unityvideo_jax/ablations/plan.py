"""A grid's plan: its runs, their order, and how long they will take."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence

import ml_collections

from unityvideo_jax.ablations.arms import Arm
from unityvideo_jax.errors import UserError
from unityvideo_jax.files import provenance

# The record that every model is compared with: the truth through the autoencoder.
REFERENCE = "reference"
# Extra seconds of a worker's first run (JAX, compilation, rendering the clips), and of each run
# beside its steps (loading compiled programs, the checkpoint, the scores).
FIRST_SECONDS, RUN_SECONDS = 200.0, 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """An arm with a seed.

    Attributes:
      arm: what is trained.
      seed: of weights, worlds and draws.
    """

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Its name in files: that of the arm, with the seed."""
        return f"{self.arm.name.removesuffix('.py').replace('/', '_')}_{self.seed}"

    @property
    def config_hash(self) -> str:
        """SHA-256 of the configuration, the seed apart."""
        return provenance.config_hash(self.arm.config)

    def config(self) -> ml_collections.ConfigDict:
        """The configuration to train."""
        config = self.arm.config.copy_and_resolve_references()
        config.seed = self.seed
        return config


def make_plan(arms: Iterable[Arm], seeds: Sequence[int]) -> tuple[list[Run], list[str]]:
    """Orders runs, all arms of a seed before the next: a grid cut short has whole seeds.

    Args:
      arms: in order; of those that are the same configuration the first is run.
      seeds: in order.

    Returns:
      The runs, and a line for every arm that is not run because another is the same.

    Raises:
      UserError: no arm or no seed, or a seed twice.
    """
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"--seeds={','.join(map(str, seeds))}: give seeds, each once")
    chosen: dict[str, Arm] = {}
    lines = []
    for arm in arms:
        first = chosen.setdefault(provenance.config_hash(arm.config), arm)
        if first is not arm:
            lines.append(f"{arm.name}: the same configuration as {first.name}, which is run once")
    if not chosen:
        raise UserError("--arms: give at least one")
    return [Run(arm=arm, seed=seed) for seed in seeds for arm in chosen.values()], lines


def training_seconds(run: Run, flops_per_second: float) -> float:
    """Expected seconds of a run's steps."""
    seconds = run.arm.flops * run.arm.config.train.steps / flops_per_second
    limit = float(run.arm.config.train.max_seconds)
    return min(seconds, limit) if limit else seconds


def minutes(runs: Sequence[Run], parallel: int, flops_per_second: float) -> float:
    """Expected minutes of these runs on `parallel` devices, each free one taking the next run."""
    ends = [FIRST_SECONDS] * parallel
    for run in runs:
        ends.sort()
        ends[0] += training_seconds(run, flops_per_second) + RUN_SECONDS
    return max(ends) / 60


def table(
    runs: Sequence[Run], done: Collection[str], parallel: int, flops_per_second: float
) -> list[str]:
    """The plan as lines: each arm once, then the time that is left."""
    arms = list({run.arm.name: run.arm for run in runs}.values())
    width = max(len(arm.name) for arm in arms)
    lines = [
        f"{'arm':<{width}}  streams             RGB trained  weights  PFLOP/run  steps  done  to do"
    ]
    for arm in arms:
        own = [run.name for run in runs if run.arm is arm]
        shares = " ".join(f"{n}:{share:.2f}" for n, share in arm.streams.items())
        finished = sum(name in done for name in own)
        lines.append(
            f"{arm.name:<{width}}  {shares:<18}  {arm.rgb_share:10.1%}  "
            f"{arm.facts()['parameters'] / 1e6:6.2f}M  "
            f"{arm.flops * arm.config.train.steps / 1e15:9.2f}  {arm.config.train.steps:5d}  "
            f"{finished:4d}  {len(own) - finished:5d}"
        )
    left = [run for run in runs if run.name not in done]
    if left:
        expected = minutes(left, parallel, flops_per_second)
        lines.append(
            f"{len(left)} of {len(runs)} runs to do: about {expected:.0f} minutes on {parallel} "
            f"device{'s' * (parallel > 1)} at {flops_per_second / 1e12:g} model TFLOP/s"
        )
    return lines
