"""Builders of the datasets in TFDS form."""
