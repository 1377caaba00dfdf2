"""Checkpoints on disk: which one, whether it is whole, and its weights."""
