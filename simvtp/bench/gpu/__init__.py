"""One command that checks and measures everything on a GPU: `simvtp bench gpu`."""
