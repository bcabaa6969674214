"""HOW a comparison is run: one script a sweep, over a shared command line; and the commands that
look at sweeps, end and mend them.

docs/architecture.md says what each file is for. `runner` is the only one that imports submitit,
`study` the only one that imports optuna."""
