"""Masked video-text pre-training: SimVTP and what is needed to check its claims."""

__version__ = "0.1.0"
