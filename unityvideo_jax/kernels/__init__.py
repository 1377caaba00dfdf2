"""Kernels of attention and of operations on rows of tokens."""
