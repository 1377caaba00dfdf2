"""Checks every jaxtyping annotation of the package while the tests run."""

import os

# Eight virtual devices let mesh tests run anywhere, and tests spend their time compiling small
# programs, not running them. Set before JAX starts; programs that tests start inherit it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)

from jaxtyping import install_import_hook

install_import_hook("unityvideo_jax", "beartype.beartype")
