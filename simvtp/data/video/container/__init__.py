"""Readers of container files: streams, packets, time stamps, orientation."""
