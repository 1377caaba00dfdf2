"""Metrics by modality, each named after its protocol, and the benchmarks that feed them."""
