"""Experiments from what a user names: a recipe, a file of settings, or a run directory."""
