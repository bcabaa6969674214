"""Evidence that a comparison needs: `power` computes the seeds of a sweep before it is run."""
