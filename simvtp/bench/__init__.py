"""Measurements of the training step: against its peers, over its sizes, and against what was
measured before.
"""
