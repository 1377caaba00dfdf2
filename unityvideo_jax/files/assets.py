"""Where the data that ships with the package lies."""

import pathlib

ASSETS = pathlib.Path(__file__).resolve().parents[1] / "assets"
