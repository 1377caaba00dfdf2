"""Runs `sample` or `evaluate`, the first argument, on the tiny pipeline instead of a workdir."""

import importlib
import sys

import jax
from tiny_pipeline import tiny_pipeline

from unityvideo_jax import cli
from unityvideo_jax.sampling.pipeline import Pipeline

if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    Pipeline.from_workdir = classmethod(lambda cls, workdir, **_: tiny_pipeline())
    program = importlib.import_module(f"unityvideo_jax.{sys.argv.pop(1)}")
    program.define_flags()
    cli.run(program.main)
