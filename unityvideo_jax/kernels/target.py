"""The device that programs are compiled for."""

import jax


def target_device() -> tuple[str, str]:
    """Platform and kind of the device to compile for: the ambient mesh's, else the first."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None:
        return device.platform, device.device_kind
    return jax.default_backend(), jax.devices()[0].device_kind
