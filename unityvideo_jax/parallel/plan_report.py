"""Plans as text: one in full, and several side by side."""

from collections.abc import Sequence

from unityvideo_jax.parallel.planner import Plan

GIB = 2**30


def mesh_name(plan: Plan) -> str:
    """Axes longer than one, as `--mesh` takes them."""
    return ",".join(f"{axis}={n}" for axis, n in plan.mesh.items() if n > 1) or "data=1"


def describe(plan: Plan) -> str:
    """Every figure of one plan, per device."""
    rows = [
        ("parameters and their average", _gib(plan.parameters)),
        ("optimiser", _gib(plan.optimizer)),
        ("batch", _gib(plan.batch)),
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
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"mesh {mesh_name(plan)}", *(f"  {n:<{width}}  {v}" for n, v in rows)])


def compare(plans: Sequence[Plan]) -> str:
    """One line a plan, those that fit first, by their roofline step time."""
    header = (
        "mesh",
        "fits",
        "GiB",
        "executed TFLOP",
        "sent GiB",
        "roofline",
        "bound",
        "model share",
    )
    lines = [header]
    for plan in sorted(plans, key=lambda p: (p.fits is False, p.step_seconds or 0.0)):
        bound = max(plan.seconds, key=plan.seconds.get) if plan.seconds else "unknown"
        share = "-"
        if plan.step_seconds and not plan.problem:
            share = f"{plan.model_flops / plan.chip.flops / plan.step_seconds:.0%}"
        lines.append(
            (
                mesh_name(plan),
                {True: "yes", False: "no", None: "unknown"}[plan.fits],
                "-" if plan.problem else f"{plan.memory / GIB:.2f}",
                f"{plan.executed_flops / 1e12:.3f}",
                "-" if plan.problem else f"{sum(plan.traffic.sent.values()) / GIB:.3f}",
                "-" if plan.problem or not plan.step_seconds else _ms(plan.step_seconds),
                "-" if plan.problem else bound,
                share,
            )
        )
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _gib(size: float | int) -> str:
    return f"{size / GIB:.3f} GiB" if size >= 0.01 * GIB else f"{size / 2**20:.3f} MiB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"


def _of(plan: Plan) -> str:
    if plan.chip is None:
        return ""
    return f" of {plan.chip.memory / GIB:.1f} GiB: {'fits' if plan.fits else 'does not fit'}"
