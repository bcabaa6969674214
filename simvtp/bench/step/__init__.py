"""Benchmarks of the training step against other implementations of the same model."""
