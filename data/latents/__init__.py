"""Latent video shards, one series per modality."""
