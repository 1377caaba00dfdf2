"""What an adapter costs beside one frozen layer, and whether another way to compute it is faster.

Command: python benchmarks/adapters.py [--tokens=40560] [--layers 1536,1536 1536,8960 8960,1536]

Forward and backward of one layer, x [tokens, in] and the gradient of y [tokens, out] in bfloat16:

  frozen   x @ kernel, no adapter
  sum      x @ kernel + (x @ down) @ up, differentiated by JAX: as adapters per modality do
  split    sum, with the sums over tokens of both small gradients in parts, so that more of the GPU
           works on them
  merged   split, with the gradient of x as one product with kernel + down @ up
  stacked  merged, and y as one product of [x, x @ down] with the kernel and `up` stacked

The last two are `models.adapted_product`, which takes `stacked` where y is no narrower than x.

"Error" is the largest of y and the three gradients, ‖a − a₀‖ / ‖a₀‖, against float32. The second
table has the products of `sum` alone, with the memory that each must read and write.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from attention import seconds
from jaxtyping import Array, Float

from unityvideo_jax.models.adapted_product import PARTS, adapted_product

Layer = Callable[[Array, Array, Array, Array], Array]


def frozen(x: Array, kernel: Array, down: Array, up: Array) -> Array:
    """The layer alone; the adapter takes part so that it has gradients, of zero."""
    return x @ kernel


def added(x: Array, kernel: Array, down: Array, up: Array) -> Array:
    """The sum of both products."""
    return x @ kernel + (x @ down.astype(x.dtype)) @ up.astype(x.dtype)


def over_tokens(a: Float[Array, "n i"], b: Float[Array, "n o"]) -> Float[Array, "i o"]:
    """Returns the product over tokens in float32, as a sum of `PARTS` products."""
    parts = (x.reshape(PARTS, -1, x.shape[-1]) for x in (a, b))
    return jnp.einsum("pni,pno->pio", *parts, preferred_element_type=jnp.float32).sum(0)


@jax.custom_vjp
def split(x: Array, kernel: Array, down: Array, up: Array) -> Array:
    """As `added`, with sums over tokens in parts."""
    return added(x, kernel, down, up)


def _split_forward(x: Array, kernel: Array, down: Array, up: Array) -> tuple[Array, tuple]:
    inner = x @ down.astype(x.dtype)
    return x @ kernel + inner @ up.astype(x.dtype), (x, inner, kernel, down, up)


def _split_backward(saved: tuple[Array, ...], dy: Array) -> tuple[Array | None, ...]:
    x, inner, kernel, down, up = saved
    narrow, wide = down.astype(x.dtype), up.astype(x.dtype)
    d_inner = dy @ wide.T
    dx = dy @ kernel.T + d_inner @ narrow.T
    return dx, None, over_tokens(x, d_inner), over_tokens(inner, dy)


split.defvjp(_split_forward, _split_backward)

LAYERS: dict[str, Layer] = {
    "frozen": frozen,
    "sum": added,
    "split": split,
    "merged": lambda *operands: adapted_product(False, *operands, None),
    "stacked": lambda *operands: adapted_product(True, *operands, None),
}


def arrays(tokens: int, inputs: int, outputs: int, rank: int) -> list[Array]:
    """Random x, kernel, down, up and gradient of y, as large as in a trained model."""
    keys = jax.random.split(jax.random.key(0), 5)
    small = 1 / inputs**0.5
    return [
        jax.random.normal(keys[0], (tokens, inputs), jnp.bfloat16),
        jax.random.normal(keys[1], (inputs, outputs), jnp.bfloat16) * small,
        jax.random.normal(keys[2], (inputs, rank)) * small,
        jax.random.normal(keys[3], (rank, outputs)) * 0.02,
        jax.random.normal(keys[4], (tokens, outputs), jnp.bfloat16),
    ]


@functools.partial(jax.jit, static_argnums=0)
def both(layer: Layer, x, kernel, down, up, dy) -> tuple[Array, ...]:
    """y, and the gradients of x, down and up."""
    y, pullback = jax.vjp(lambda x, down, up: layer(x, kernel, down, up), x, down, up)
    return y, *pullback(dy)


def error(layer: Layer, values: list[Array]) -> float:
    """Largest relative error of y and the gradients against float32."""
    with jax.default_matmul_precision("highest"):
        exact = both(added, *(v.astype(jnp.float32) for v in values))
    ours = both(layer, *values)
    return max(
        float(jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b))
        for a, b in zip(ours, exact, strict=True)
    )


def products(x: Array, kernel: Array, down: Array, up: Array, dy: Array) -> dict[str, tuple]:
    """Of each small product of `sum`: how to compute it, and its arguments."""
    narrow, wide = down.astype(x.dtype), up.astype(x.dtype)
    inner, d_inner, y, dx = x @ narrow, dy @ wide.T, dy + 0, x + 0
    return {
        "copy of x": (lambda x: x + 1, x),
        "x @ down": (jnp.matmul, x, narrow),
        "y + inner @ up": (lambda y, a, b: y + a @ b, y, inner, wide),
        "dy @ up.T": (lambda a, b: a @ b.T, dy, wide),
        "dx + d_inner @ down.T": (lambda y, a, b: y + a @ b.T, dx, d_inner, narrow),
        "x.T @ d_inner": (lambda a, b: a.T @ b, x, d_inner),
        "inner.T @ dy": (lambda a, b: a.T @ b, inner, dy),
        "x.T @ d_inner, in parts": (over_tokens, x, d_inner),
        "inner.T @ dy, in parts": (over_tokens, inner, dy),
    }


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[20480, 40560])
    parser.add_argument("--layers", nargs="+", default=["1536,1536", "1536,8960", "8960,1536"])
    parser.add_argument("--rank", type=int, default=32)
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n")
    shapes = [
        (tokens, *(int(n) for n in layer.split(",")))
        for tokens in args.tokens
        for layer in args.layers
    ]
    print("| tokens, in, out | way | ms | adapter ms | error |")
    print("| --- | --- | ---: | ---: | ---: |")
    for shape in shapes:
        values = arrays(*shape, args.rank)
        alone = 0.0
        for name, layer in LAYERS.items():
            time = seconds(both, layer, *values)
            alone = alone or time
            off = (
                ""
                if layer is frozen
                else f"{error(layer, arrays(1024, *shape[1:], args.rank)):.1e}"
            )
            extra = (time - alone) * 1e3
            print(f"| {shape} | {name} | {time * 1e3:.3f} | {extra:.3f} | {off} |", flush=True)
    print("\n| tokens, in, out | product | ms | TB/s |")
    print("| --- | --- | ---: | ---: |")
    for shape in shapes:
        for name, (product, *values) in products(*arrays(*shape, args.rank)).items():
            run = jax.jit(product)
            time = seconds(run, *values)
            moved = sum(v.nbytes for v in values) + run(*values).nbytes
            rate = moved / time / 1e12
            print(f"| {shape} | {name} | {time * 1e3:.3f} | {rate:.2f} |", flush=True)


if __name__ == "__main__":
    main()
