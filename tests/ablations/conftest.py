"""Clips that the tests of modalities share."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "modalities"))
