"""Benchmarks made of files: folders of clips, real clips, UniBench."""
