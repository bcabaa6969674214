"""One training step of each case on a GPU that is not there."""
