"""Latent video shards, one series a modality."""
