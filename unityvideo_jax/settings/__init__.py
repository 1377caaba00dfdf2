"""Configs: presets by name, and checked sections."""
