"""Runs a program of the package in this process: starting Python and JAX takes most of a short run.

A test of each program starts it as users do, in a process of its own.
"""

import contextlib
import importlib
import io
import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

from absl import flags

from unityvideo_jax import cli
from unityvideo_jax.modalities import base


@contextlib.contextmanager
def fresh_plugins() -> Iterator[None]:
    """Modules of `examples` are imported anew inside; they and what they register end with it."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("examples.")]:
            del sys.modules[name]

    forget()
    with mock.patch.dict(base._REGISTRY):
        try:
            yield
        finally:
            forget()


def run(
    program: str, *arguments: str, folder: pathlib.Path | None = None
) -> subprocess.CompletedProcess:
    """Status and output of `python -m unityvideo_jax.PROGRAM ARGUMENTS`, in `folder` if given.

    The program's flags, and what starting it changes in this process, are undone.
    """
    module = importlib.import_module(f"unityvideo_jax.{program}")
    known, root = set(flags.FLAGS), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    out, err = io.StringIO(), io.StringIO()
    here = contextlib.nullcontext() if folder is None else contextlib.chdir(folder)
    command = [module.__file__, *arguments]
    status = 0
    try:
        with (
            here,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", command),
            mock.patch.dict(os.environ),
            fresh_plugins(),
        ):
            module.define_flags()
            cli.run(module.main)
    except SystemExit as end:
        status = end.code or 0
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        root.handlers[:], root.level = handlers, level
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())
