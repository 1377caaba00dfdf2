"""Plans as text: one in full, and several side by side."""

from collections.abc import Iterable, Sequence

from unityvideo_jax.inputs.buckets import Bucket
from unityvideo_jax.parallel.chips import GIB
from unityvideo_jax.planning.closed_form import Estimate
from unityvideo_jax.planning.planner import Plan

_FITS = {True: "yes", False: "no", None: "unknown"}


def mesh_name(plan: Plan | Estimate) -> str:
    """Axes longer than one, as `--mesh` takes them."""
    return ",".join(f"{axis}={n}" for axis, n in plan.mesh.items() if n > 1) or "data=1"


def title(plan: Plan | Estimate) -> str:
    """The mesh, and the other choices of a plan."""
    name = f"mesh {mesh_name(plan)}"
    if plan.evaluations > 1:
        return f"{name}, {plan.evaluations} evaluations"
    name += f", remat {plan.model.remat}"
    return name + (", ring" if plan.model.attention_parallel == "ring" else "")


def describe(plan: Plan) -> str:
    """Every figure of one compiled plan, per device."""
    sampling = plan.evaluations > 1
    rows = [
        ("parameters" if sampling else "parameters and their average", _gib(plan.parameters)),
        *([] if sampling else [("optimiser", _gib(plan.optimizer))]),
        ("input and output" if sampling else "batch", _gib(plan.batch)),
    ]
    if plan.problem:
        rows += [("does not compile", plan.problem)]
    else:
        rows += [
            ("activations, gradients, temporary", _gib(plan.temporary)),
            ("program", _gib(plan.code)),
            ("memory", _gib(plan.memory) + _of(plan)),
        ]
    rows += [
        ("model FLOPs", f"{plan.model_flops:.3e}"),
        ("executed FLOPs", f"{plan.executed_flops:.3e}"),
    ]
    for (kind, axes), size in sorted(plan.traffic.sent.items()):
        rows.append((f"sends by {kind} over {axes}", _gib(size)))
    if not plan.problem:
        rows.append(("moves through main memory", _gib(plan.traffic.memory)))
        rows += [(f"at least, by {name}", _ms(s)) for name, s in plan.seconds.items()]
        if sampling and plan.step_seconds:
            rows.append(("at least, an evaluation", _ms(plan.step_seconds / plan.evaluations)))
    return _lines(title(plan), rows)


def describe_estimate(plan: Estimate) -> str:
    """Every figure of one estimate, per device."""
    sampling = plan.evaluations > 1
    rows = [
        ("parameters" if sampling else "parameters and their average", _gib(plan.parameters)),
        *([] if sampling else [("optimiser", _gib(plan.optimizer))]),
        ("weights cast" if sampling else "gradients, weights cast", _gib(plan.copies)),
        *([] if sampling else [("saved for the backward pass", _gib(plan.saved))]),
        ("a layer at work", _gib(plan.working)),
        ("memory", _gib(plan.memory) + _of(plan)),
        ("model FLOPs", f"{plan.model_flops:.3e}"),
    ]
    rows += [(f"sends over {axis}", _gib(size)) for axis, size in plan.sent.items() if size]
    rows += [(f"time of {name}", _ms(s)) for name, s in plan.seconds.items()]
    rows += [(f"time of sending over {axis}", _ms(s)) for axis, s in plan.sending.items() if s]
    rows += [("time in all, estimated", _ms(plan.step_seconds))]
    if sampling:
        rows.append(("an evaluation", _ms(plan.step_seconds / plan.evaluations)))
    return _lines(title(plan), rows)


def compare(plans: Sequence[Plan] | Sequence[Estimate]) -> str:
    """One line per plan, those that fit first, by samples per second."""
    header = ("mesh", "remat", "fits", "GiB", "sent GiB", "time", "samples/s", "most by", "share")
    return _columns([header, *(_line(plan) for plan in order(plans))])


def mix(
    shapes: Sequence[Bucket], tokens: Sequence[int], plans: Sequence[Plan] | Sequence[Estimate]
) -> str:
    """One line per bucket of a stage, and the mean over its steps.

    Args:
      shapes: that its steps may have.
      tokens: of a step of each.
      plans: of each, on the same mesh.
    """
    total = sum(bucket.weight for bucket in shapes)
    header = ("bucket", "steps", "samples", "tokens", "fits", "GiB", "time")
    rows = [header]
    for bucket, count, plan in zip(shapes, tokens, plans, strict=True):
        rows.append(
            (
                bucket.label,
                f"{bucket.weight / total:.1%}",
                f"{bucket.batch_size:,}",
                f"{count:,}",
                _FITS[plan.fits],
                "-" if isinstance(plan, Plan) and plan.problem else f"{plan.memory / GIB:.2f}",
                _ms(plan.step_seconds) if plan.step_seconds else "-",
            )
        )
    lines = _columns(rows)
    if all(plan.step_seconds for plan in plans):
        shares = [bucket.weight / total for bucket in shapes]
        seconds, samples, mean_tokens = (
            sum(share * n for share, n in zip(shares, column, strict=True))
            for column in (
                [plan.step_seconds for plan in plans],
                [bucket.batch_size for bucket in shapes],
                tokens,
            )
        )
        lines += (
            f"\nmix: {_ms(seconds)} per step on average, {samples / seconds:.3g} samples/s, "
            f"{mean_tokens / seconds:,.0f} tokens/s"
        )
    return lines


def order(plans: Iterable[Plan] | Iterable[Estimate]) -> list:
    """Sorts those that fit first, then by samples per second where the time is known."""

    def goodness(plan: Plan | Estimate) -> tuple:
        seconds = plan.step_seconds
        return plan.fits is False, -plan.samples / seconds if seconds else 0.0

    return sorted(plans, key=goodness)


def advice(plans: Sequence[Plan] | Sequence[Estimate]) -> str:
    """The best of several plans, and the flags that train with it."""
    best = order(plans)[0]
    if not best.fits:
        return "none of these fits: use more devices, a smaller batch or a shorter video"
    flags = [f"--config.mesh.{axis}={n}" for axis, n in best.mesh.items()]
    flags += [f"--config.model.remat={best.model.remat}"]
    flags += [f"--config.model.attention_parallel={best.model.attention_parallel}"]
    return f"best: {title(best)}\n{' '.join(flags)}"


def _line(plan: Plan | Estimate) -> tuple[str, ...]:
    remat = plan.model.remat
    remat += ", ring" if plan.model.attention_parallel == "ring" else ""
    start = (mesh_name(plan), remat, _FITS[plan.fits])
    if isinstance(plan, Plan):
        if plan.problem:
            return (*start, "-", "-", "-", "-", plan.problem, "-")
        sent, times = plan.traffic.sent, plan.seconds
    else:
        sent, times = plan.sent, {**plan.seconds, **plan.sending}
    known = bool(plan.step_seconds)
    return (
        *start,
        f"{plan.memory / GIB:.2f}",
        f"{sum(sent.values()) / GIB:.3f}",
        _ms(plan.step_seconds) if known else "-",
        f"{plan.samples / plan.step_seconds:.3g}" if known else "-",
        max(times, key=times.get) if times else "unknown",
        f"{plan.model_flops / plan.chip.flops / plan.step_seconds:.0%}" if known else "-",
    )


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _lines(head: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _gib(size: float | int) -> str:
    return f"{size / GIB:.3f} GiB" if size >= 0.01 * GIB else f"{size / 2**20:.3f} MiB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _of(plan: Plan | Estimate) -> str:
    if plan.chip is None:
        return ""
    return f" of {plan.chip.memory / GIB:.1f} GiB: {'fits' if plan.fits else 'does not fit'}"
