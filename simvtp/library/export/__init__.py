"""A model that leaves its run: a folder with all that it needs, and the hub."""
