"""Checks every jaxtyping annotation of the package while the tests run."""

import os

# Eight virtual devices let mesh tests run anywhere; it must be set before JAX starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

from jaxtyping import install_import_hook

install_import_hook("unityvideo_jax", "beartype.beartype")
