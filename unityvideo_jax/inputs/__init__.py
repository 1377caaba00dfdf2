"""Inputs: latent shards and their preparation, the Grain pipeline, and worlds online."""
