"""What one device can do, for roofline estimates: vendors' figures, which no program reaches."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One JAX device.

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
# the others three). NVIDIA: datasheets; NVLink one way, and one 400 Gbit/s adapter a GPU.
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
        flops=1153e12,
        memory=96 * GIB,
        memory_bandwidth=3.69e12,
        link_bandwidth=1e11,
        network_bandwidth=6.25e9,
    ),
    "NVIDIA H200": Chip(
        flops=989e12,
        memory=141 * 10**9,
        memory_bandwidth=4.8e12,
        link_bandwidth=4.5e11,
        network_bandwidth=5e10,
    ),
    "NVIDIA H100": Chip(
        flops=989e12,
        memory=80 * 10**9,
        memory_bandwidth=3.35e12,
        link_bandwidth=4.5e11,
        network_bandwidth=5e10,
    ),
}


def chip_of(device_kind: str) -> Chip | None:
    """The figures of a device; None if unknown, as for CPUs."""
    matches = [kind for kind in CHIPS if device_kind.startswith(kind)]
    return CHIPS[max(matches, key=len)] if matches else None
