"""Private interfaces of other libraries that the project relies on."""
