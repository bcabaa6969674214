"""Benchmarks of this machine: training step, data path, start-up, and a gate on regressions."""
