"""Weights of other projects, in and out: Wan's names and layouts beside ours."""
