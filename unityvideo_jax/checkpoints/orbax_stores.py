"""Access of TensorStore, and Orbax with it, to object stores.

Orbax 0.12 reads and writes gs:// with TensorStore's driver for it, and has none for s3://, although
TensorStore does; `enable` gives it that one.
"""

import functools
import os
from typing import Any

from unityvideo_jax.files import stores


def kvstore(path: os.PathLike) -> dict[str, Any]:
    """Returns TensorStore's specification of the place of an array or a file."""
    if not stores.is_url(path):
        return {"driver": "file", "path": os.fspath(path)}
    scheme, _, rest = stores.url(path).partition("://")
    bucket, _, key = rest.partition("/")
    if scheme == "s3":
        return _s3(bucket, key)
    driver = os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs")  # as Orbax has it
    return {"driver": driver, "bucket": bucket, "path": key}


def folder(path: os.PathLike) -> dict[str, Any]:
    """Returns `kvstore` of a folder, whose files are keys."""
    spec = kvstore(path)
    return spec | {"path": f"{spec['path'].rstrip('/')}/"}


def _s3(bucket: str, key: str) -> dict[str, Any]:
    """TensorStore's driver does not read the variables that the clients of AWS do."""
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": key}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    if endpoint:
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    elif region:
        spec["aws_region"] = region
    if "AWS_ACCESS_KEY_ID" in os.environ:
        spec["aws_credentials"] = {"type": "environment"}
    return spec


@functools.cache
def enable() -> None:
    """Makes Orbax take s3:// as it takes gs://: the same folders, finished by the same mark."""
    from orbax.checkpoint._src.path import gcs_utils
    from orbax.checkpoint._src.serialization import tensorstore_utils

    build = tensorstore_utils.build_kvstore_tspec

    def build_any(directory: str, name: str | None = None, **options: Any) -> dict[str, Any]:
        if not str(directory).startswith("s3://"):
            return build(directory, name, **options)
        return _as_s3(build(f"gs://{str(directory).removeprefix('s3://')}", name, **options))

    tensorstore_utils.build_kvstore_tspec = build_any
    gcs_utils._GCS_PATH_PREFIX = ("gs://", "s3://")


def _as_s3(spec: Any) -> Any:
    """A specification with the driver of s3:// in place of that of gs://."""
    if not isinstance(spec, dict):
        return spec
    if spec.get("driver") in ("gcs", "gcs_grpc"):
        return _s3(spec["bucket"], spec["path"])
    return {name: _as_s3(value) for name, value in spec.items()}
