"""Peak figures of devices by their vendors, which no program reaches.

The one table of peaks: rooflines (`planner`) and the share of the peak (`training.metrics`).
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Vendor's figures of one JAX device.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      memory: bytes of fast memory that programs can use.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s that one device sends along one axis of its fast network.
      network_bandwidth: bytes/s that one device sends to other slices or hosts.
    """

    flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float


# Keyed by the start of JAX's `device_kind`. TPU: cloud.google.com/tpu/docs; a chip's bidirectional
# bandwidth halved for one direction and divided among the axes of its torus (v5e and v6e have two,
# the others three). NVIDIA: datasheets, dense, of the SXM boards; NVLink one way, and the one
# network adapter that a GPU has in NVIDIA's own hosts.
CHIPS = {
    "TPU v4": Chip(
        flops=275e12,
        memory=32 * GIB,
        memory_bandwidth=1.2e12,
        link_bandwidth=1e11,
        network_bandwidth=6.25e9,
    ),
    "TPU v5 lite": Chip(
        flops=197e12,
        memory=16 * GIB,
        memory_bandwidth=8.19e11,
        link_bandwidth=1e11,
        network_bandwidth=3.1e9,
    ),
    "TPU v5": Chip(
        flops=459e12,
        memory=95 * GIB,
        memory_bandwidth=2.765e12,
        link_bandwidth=2e11,
        network_bandwidth=6.25e9,
    ),
    "TPU v6 lite": Chip(
        flops=918e12,
        memory=32 * GIB,
        memory_bandwidth=1.64e12,
        link_bandwidth=2e11,
        network_bandwidth=1.25e10,
    ),
    # One of the two dies of a chip, which is what JAX calls a device.
    "TPU7x": Chip(
        flops=2307e12 / 2,
        memory=96 * GIB,
        memory_bandwidth=3.69e12,
        link_bandwidth=1e11,
        network_bandwidth=6.25e9,
    ),
    "NVIDIA A100": Chip(
        flops=312e12,
        memory=80 * 10**9,
        memory_bandwidth=2.039e12,
        link_bandwidth=3e11,
        network_bandwidth=2.5e10,
    ),
    "NVIDIA A100-SXM4-40GB": Chip(
        flops=312e12,
        memory=40 * 10**9,
        memory_bandwidth=1.555e12,
        link_bandwidth=3e11,
        network_bandwidth=2.5e10,
    ),
    "NVIDIA H100": Chip(
        flops=989e12,
        memory=80 * 10**9,
        memory_bandwidth=3.35e12,
        link_bandwidth=4.5e11,
        network_bandwidth=5e10,
    ),
    "NVIDIA H200": Chip(
        flops=989e12,
        memory=141 * 10**9,
        memory_bandwidth=4.8e12,
        link_bandwidth=4.5e11,
        network_bandwidth=5e10,
    ),
    "NVIDIA GH200": Chip(
        flops=989e12,
        memory=96 * 10**9,
        memory_bandwidth=4e12,
        link_bandwidth=4.5e11,
        network_bandwidth=5e10,
    ),
    "NVIDIA B200": Chip(
        flops=2250e12,
        memory=180 * 10**9,
        memory_bandwidth=8e12,
        link_bandwidth=9e11,
        network_bandwidth=5e10,
    ),
    "NVIDIA GB200": Chip(
        flops=2500e12,
        memory=186 * 10**9,
        memory_bandwidth=8e12,
        link_bandwidth=9e11,
        network_bandwidth=5e10,
    ),
}
# Other names of the same chips: libtpu says "lite", some of JAX's own tables say "e" and "p".
_ALIASES = {"TPU v5e": "TPU v5 lite", "TPU v6e": "TPU v6 lite"}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the figures of a device, by JAX's `device_kind`; None if unknown, as for CPUs."""
    names = {kind: kind for kind in CHIPS} | _ALIASES
    matches = [name for name in names if device_kind.startswith(name)]
    return CHIPS[names[max(matches, key=len)]] if matches else None
