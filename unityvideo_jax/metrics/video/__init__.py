"""Scores of RGB video: VBench's dimensions, FVD, and a proxy that needs no weights."""
