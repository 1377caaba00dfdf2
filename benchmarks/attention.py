"""Attention kernels alone, forward and backward, on one device.

Command: python benchmarks/attention.py --shape 1,40560,40560,12,128 8,2560,2560,12,128 \
             --kernel cudnn flash

A shape is batch, queries, keys, heads, size of a head; types are bfloat16. TFLOP/s count the two
products of the forward pass, and twice that for the backward. "Error" is the largest of the output
and the gradients, ‖x − x₀‖ / ‖x₀‖, against float32 on the first 256 queries' worth of a small case.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unityvideo_jax.kernels import attention


def seconds(run: Callable[..., Any], *args: Any) -> float:
    """Median time of a call, which repeats ten times after two that do not count."""
    times = []
    for _ in range(12):
        start = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def arrays(shape: tuple[int, ...], dtype: str = "bfloat16") -> list[jax.Array]:
    """Makes random queries, keys, values and a gradient of the output."""
    b, n, m, h, d = shape
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = ((b, n, h, d), (b, m, h, d), (b, m, h, d), (b, n, h, d))
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, sizes, strict=True)]


def error(kernel: str, shape: tuple[int, ...]) -> float:
    """Largest relative error against float32, of a short case with the same heads."""
    values = arrays((1, 520, 456, *shape[3:]))

    def all_of(kernel, q, k, v, g):
        attend = functools.partial(attention.local_attention, implementation=kernel)
        out, pullback = jax.vjp(attend, q, k, v)
        return out, *pullback(g)

    ours = jax.jit(functools.partial(all_of, kernel))(*values)
    exact = [x.astype(jnp.float32) for x in values]
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(functools.partial(all_of, "xla"))(*exact)
    return max(
        float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))
        for a, b in zip(ours, expected, strict=True)
    )


def measure(kernel: str, shape: tuple[int, ...]) -> str:
    """A row of the table."""
    b, n, m, h, d = shape
    q, k, v, g = arrays(shape)
    forward = jax.jit(functools.partial(attention.block_forward, implementation=kernel))
    backward = jax.jit(functools.partial(attention.block_backward, implementation=kernel))
    flops = 4 * b * h * n * m * d
    one = seconds(forward, q, k, v)
    two = seconds(backward, q, k, v, *forward(q, k, v), g)
    return (
        f"| {','.join(map(str, shape))} | {kernel} | {one * 1e3:.2f} | {flops / one / 1e12:.0f} | "
        f"{two * 1e3:.2f} | {2 * flops / two / 1e12:.0f} | {error(kernel, shape):.1e} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shape", nargs="+", required=True, type=lambda s: tuple(int(n) for n in s.split(","))
    )
    parser.add_argument("--kernel", nargs="+", required=True)
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    print("| shape | kernel | forward ms | TFLOP/s | backward ms | TFLOP/s | error |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for shape in args.shape:
        for kernel in args.kernel:
            print(measure(kernel, shape), flush=True)


if __name__ == "__main__":
    main()
