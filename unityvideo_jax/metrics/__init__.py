"""Metrics: pure functions of predicted and true arrays."""
