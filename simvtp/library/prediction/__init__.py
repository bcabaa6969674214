"""Predictions about films: an answer, a class, a caption, a span."""
