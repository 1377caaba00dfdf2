"""Paths of the files that come with the package."""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parents[1]
ASSETS = PACKAGE / "assets"


def folder(name: str) -> pathlib.Path:
    """The folder `configs` or `data`: in the package once installed, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name
