"""Parts of other libraries that are private there, one file per library."""
