"""Changes of a configuration when a run resumes: those that are free, asked for, or refused."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from unityvideo_jax.files import provenance
from unityvideo_jax.training.config import SECTIONS

# Free to change: how the run reports, how far it goes, how it reads, and where it runs.
FREE = (
    "init_from",
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.keep",
    "train.sample_every",
    "train.sample_count",
    "train.max_seconds",
    "train.check_every",
    "train.hang_seconds",
    "data.num_workers",
    "data.read_threads",
    "sampling.",
    "mesh.",
    "model.remat",
    "model.scan_layers",
    "model.attention",
)
# Keys of paths whose content must stay the same.
PLACES = ("data.dirs", "data.vae", "data.text_encoder")
# The same holds for this key where adapters train, since every start reads it again.
INIT_FROM = "init_from"
# Changes of the training itself: whoever wants one asks for it, and reads what it does.
_RATE = "the optimiser's state stays, and the rate follows the new schedule from the next step on"
ASKED = {
    "optimizer.learning_rate": _RATE,
    "optimizer.warmup_steps": _RATE,
    "optimizer.schedule": _RATE,
    "optimizer.schedule_steps": _RATE,
    "optimizer.weight_decay": "holds from the next step on",
    "optimizer.clip_norm": "holds from the next step on",
    "optimizer.accumulation": "micro-batches of another size, the same gradient up to rounding",
    "curriculum": "holds from the next step on",
    "train.batch_size": "the next record is the one that was due; the learning rate is not scaled, "
    "and steps are counted on",
}
SCHEDULE_STEPS = "optimizer.schedule_steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Facts about the command of a run, beside its configuration.

    Attributes:
      overridden: keys that the command line set, instead of the configuration file.
      fingerprints: of what lies at each of `PLACES`, as JSON knows them; None is not known.
    """

    overridden: tuple[str, ...] = ()
    fingerprints: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def flat(config: Any) -> dict[str, Any]:
    """A configuration by dotted key, as JSON values; a key that is not set has its default."""
    values = provenance.plain(config)
    for name, cls in SECTIONS.items():
        if not isinstance(values.setdefault(name, {}), dict):
            continue
        for field in dataclasses.fields(cls):
            if field.default is not dataclasses.MISSING:
                values[name].setdefault(field.name, provenance.plain(field.default))
    return _flat(values)


def with_schedule(wanted: Mapping[str, Any], stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a flat configuration in which `optimizer.schedule_steps` is a step.

    Args:
      wanted: of the command; 0 takes what the run was started with.
      stored: of the run; None starts it.
    """
    source = wanted if stored is None else stored
    steps = wanted.get(SCHEDULE_STEPS) or source.get(SCHEDULE_STEPS) or source.get("train.steps")
    return {**wanted, SCHEDULE_STEPS: steps}


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns the keys whose values differ."""
    return sorted(k for k in {*stored, *wanted} if stored.get(k) != wanted.get(k))


def is_fixed(key: str) -> bool:
    """Returns whether a key must stay as long as the run lasts."""
    return not (key.startswith(FREE) or key in PLACES or key in ASKED)


def refusal(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], before: Record, now: Record, done: int
) -> str:
    """Why a run cannot continue with another configuration, and what to do; "" if it can.

    Args:
      stored, wanted: flat configurations of the run and of the command.
      before, now: records of the run and of the command.
      done: steps of the run.
    """
    changed = differences(stored, wanted)
    if fixed := [key for key in changed if is_fixed(key)]:
        lines = ", ".join(
            f"config.{k}={wanted.get(k)!r} (was {stored.get(k)!r})" for k in fixed[:4]
        )
        return f"holds a run of another config: {lines}; set them back or name another --workdir"
    stages = [_stages_done(config.get("curriculum", []), done) for config in (stored, wanted)]
    if stages[0] != stages[1]:
        return (
            f"config.curriculum changes stages of the {done} steps that are done; set these back "
            "(later ones may change), or name another --workdir"
        )
    for key in changed:
        if key in ASKED and key in before.overridden and key not in now.overridden:
            return (
                f"config.{key} was set to {stored.get(key)!r} on the command line, and this "
                f"command does not set it (the file says {wanted.get(key)!r}); add --config.{key}="
                f"{stored.get(key)} to continue as before, or --config.{key}={wanted.get(key)} to "
                "change it"
            )
    return _exchanged(stored, wanted, before.fingerprints, now.fingerprints)


def _exchanged(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
) -> str:
    """What is not the thing that the run used, and what to do; "" if all is."""
    for key in (*PLACES, *({INIT_FROM} & set(now))):
        was, found = before.get(key), now.get(key)
        moved = stored.get(key) != wanted.get(key)
        if was == found and was is not None:
            continue
        if moved and found is None:
            return (
                f"config.{key}={wanted.get(key)!r}: nothing to read there, so that it cannot be "
                f"compared with {stored.get(key)!r}, which the run used; put it there, or set "
                f"config.{key} back to {stored.get(key)!r}"
            )
        if moved and was is None:
            return (
                f"config.{key}={wanted.get(key)!r} (was {stored.get(key)!r}): the run recorded no "
                f"fingerprint of it, so that the two cannot be compared; set config.{key} back to "
                f"{stored.get(key)!r}, or name another --workdir"
            )
        if was is not None and found is not None:
            return (
                f"config.{key}={wanted.get(key)!r} holds {found}, but the run used {was} at "
                f"{stored.get(key)!r} (fingerprints); restore what was there, name the folder that "
                "it lies in now, or start anew in another --workdir"
            )
    return ""


def _stages_done(curriculum: Sequence[Mapping[str, Any]], done: int) -> list[Any]:
    """What held in the steps that are done, and until which of them."""
    stages, start = [], 0
    for entry in curriculum or [{"until": -1}]:
        until = done if entry["until"] == -1 else min(int(entry["until"]), done)
        if until > start:
            stages.append((until, {k: v for k, v in entry.items() if k != "until"}))
        start = until
    return stages


def notes(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], command: Mapping[str, Any]
) -> list[str]:
    """Returns one line for each change of the training, and for a schedule that does not change.

    Args:
      stored, wanted: flat configurations of the run and of its continuation, both `with_schedule`.
      command: flat configuration as given.
    """
    lines = [
        f"config.{key}: {stored.get(key)!r} -> {wanted.get(key)!r}: {ASKED[key]}"
        for key in differences(stored, wanted)
        if key in ASKED
    ]
    end, steps = wanted[SCHEDULE_STEPS], wanted.get("train.steps")
    ends = wanted.get("optimizer.schedule") == "cosine" and not command.get(SCHEDULE_STEPS)
    if ends and steps != end:
        lines.append(
            f"config.train.steps={steps}: the cosine still ends at step {end}, as when the run was "
            f"started; config.{SCHEDULE_STEPS}={steps} ends it at step {steps} instead, and the "
            "learning rate jumps"
        )
    return lines


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = value
    return values
