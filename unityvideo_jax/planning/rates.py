"""Rates that one device reaches in practice, of which the closed form of a step is made.

Every figure that was measured is in `MEASURED`; the rest is scaled from it by vendors' figures, and
says so.
"""

import dataclasses

from unityvideo_jax.errors import UserError
from unityvideo_jax.parallel.chips import CHIPS, chip_of

# Fused element-wise kernels and the scan's copies reach this part of the copy bandwidth. Fitted to
# the step times of benchmarks/LOG.md, "The training step beside diffusers".
ELEMENTWISE_SHARE = 0.65


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """One device.

    Attributes:
      matmul: FLOP/s of bfloat16 matrix products.
      attention_forward, attention_backward: FLOP/s of self-attention over long sequences; the
        backward pass counts as twice the forward's FLOPs, whatever its kernel does.
      copy: bytes/s read and written through main memory.
      links: bytes/s that a device sends in a ring within its fast network ("bus bandwidth").
      network: the same of one device's network adapter.
      domain: devices that share a fast network; None where the mesh's `slice` axis alone leaves it.
      overlap: whether weights and gradients travel while layers compute.
      slack: greatest ratio of memory, measured or compiled, to the closed form's.
      source: where the figures come from.
    """

    matmul: float
    attention_forward: float
    attention_backward: float
    copy: float
    links: float
    network: float
    domain: int | None
    overlap: bool
    slack: float
    source: str


# benchmarks/LOG.md, "Attention kernels alone": at 40,560 tokens, FlashAttention's kernels on
# Hopper; cuDNN 9.19 elsewhere, by its rates on the H200. Matrix products of 8192 in a JAX chain
# (706 TFLOP/s on an H200) and copies were measured on machines of these kinds, by no benchmark
# here. Nor by any were the links, for which an all-reduce's bus bandwidth stands in; the network is
# the adapter's 400 Gbit/s.
_LINKS = 3.29e11
_SOURCE = "measured, but for links and network"
# Measured peaks over the closed form's, at most.
_SLACK = 1.06
# The same of the programs compiled for docs/planning.md.
_TPU_SLACK = 1.43
_H200 = Rates(
    matmul=700e12,
    attention_forward=635e12,
    attention_backward=498e12,
    copy=4.3e12,
    links=_LINKS,
    network=5e10,
    domain=8,
    # On two and four H200 the 10B took longer by about all of it (benchmarks/LOG.md).
    overlap=False,
    slack=_SLACK,
    source=_SOURCE,
)
_H100 = dataclasses.replace(_H200, attention_forward=665e12, attention_backward=514e12, copy=3.0e12)
MEASURED = {"NVIDIA H200": _H200, "NVIDIA H100": _H100}
_CUDNN = dataclasses.replace(_H200, attention_forward=598e12, attention_backward=419e12)
_REFERENCE = "NVIDIA H200"
_DOMAINS = {"NVIDIA GB200": 72}


def rates_of(device_kind: str) -> Rates | None:
    """Rates of a device by JAX's `device_kind`; None if its chip is unknown.

    TPUs have no measured rates: theirs are the vendor's figures, good for comparing meshes only.
    """
    chip = chip_of(device_kind)
    if chip is None:
        return None
    for kind, rates in MEASURED.items():
        if device_kind.startswith(kind):
            return rates
    if device_kind.startswith("TPU"):
        return Rates(
            matmul=chip.flops,
            attention_forward=chip.flops,
            # Splash computes the gradients of queries and keys apart: 7 products, not 4.
            attention_backward=chip.flops * 4 / 7,
            copy=chip.memory_bandwidth,
            links=chip.link_bandwidth,
            network=chip.network_bandwidth,
            domain=None,
            overlap=True,
            slack=_TPU_SLACK,
            source="the vendor's peaks",
        )
    base, known = _CUDNN, CHIPS[_REFERENCE]
    faster = chip.flops / known.flops
    return Rates(
        matmul=base.matmul * faster,
        attention_forward=base.attention_forward * faster,
        attention_backward=base.attention_backward * faster,
        copy=base.copy * chip.memory_bandwidth / known.memory_bandwidth,
        links=base.links * chip.link_bandwidth / known.link_bandwidth,
        network=chip.network_bandwidth,
        domain=_DOMAINS.get(device_kind, base.domain),
        overlap=base.overlap,
        slack=base.slack,
        source=f"not measured: {_REFERENCE}'s rates scaled by the datasheets",
    )


def gpus(topology: str) -> tuple[str, int] | None:
    """Device kind and number of a topology such as "h200:8"; None if it names no GPU.

    Raises:
      UserError: a GPU without a number.
    """
    name, _, count = topology.partition(":")
    kind = f"NVIDIA {name.upper()}"
    if kind not in CHIPS:
        return None
    if not count.isdigit() or int(count) < 1:
        raise UserError(f"--topology={topology}: give a number of GPUs, such as {name}:8")
    return kind, int(count)
