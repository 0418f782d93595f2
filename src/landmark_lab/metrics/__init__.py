"""Metrics: pure functions, and torchmetrics shells of the same name."""
