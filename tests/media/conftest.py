"""Lets the tests here import what they share, whatever pytest's import mode."""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "curation")]
