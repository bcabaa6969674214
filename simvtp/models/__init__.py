"""Networks: modules that turn a batch and its masks into named outputs."""
