"""Autoencoders and text encoders by name or folder."""
