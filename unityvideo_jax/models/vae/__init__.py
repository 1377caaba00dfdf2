"""Wan's video autoencoder."""
