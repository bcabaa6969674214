"""Models that embed and search films, and experiments, for programs and notebooks.

`import simvtp` names these functions and classes and imports them on their first use.
"""
