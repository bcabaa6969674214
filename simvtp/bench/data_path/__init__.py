"""Benchmarks of the path from video files to batches."""
