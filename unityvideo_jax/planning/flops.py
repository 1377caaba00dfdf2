"""Floating-point operations of a traced program, recomputation and kernels included."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core

# Matrix products of n x m x d per head that cuDNN's kernels do; JAX shows no program inside them.
_CUDNN = {"dot_product_attention_fwd": 2, "dot_product_attention_bwd": 5}


def count_flops(jaxpr: Any) -> int:
    """FLOPs of the matrix products in a program (a multiply-add is two), on all devices together.

    Loops count as often as they run. A branch counts as its longest alternative, and a `while` loop
    of unknown length once.

    Args:
      jaxpr: a (closed) jaxpr, such as `jax.jit(f).trace(...).jaxpr`.
    """
    if isinstance(jaxpr, core.ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        inner = math.prod(shape[axis] for axis in contracted)
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    for kernel, products in _CUDNN.items():
        if name.startswith(kernel):
            (b, n, h, d), m = equation.invars[0].aval.shape, equation.invars[1].aval.shape[1]
            return products * 2 * b * h * n * m * d
    parts = [count_flops(inner) for inner in _inner(params)]
    if name == "cond":
        return max(parts, default=0)
    return sum(parts) * _times(name, params)


def _times(name: str, params: dict[str, Any]) -> int:
    """How often, and on how many devices, an equation runs its inner program."""
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        mesh = params["mesh"]
        return math.prod(mesh.shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an equation runs."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.Jaxpr | core.ClosedJaxpr):
                yield item
