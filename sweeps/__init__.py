"""HOW a comparison is run: one script a sweep, over a shared command line.

`command` reads the options, `engine` is the loop, `runner` starts jobs (the only submitit import), `job` is what happens inside one,
`rundir` reads what a run directory says, `study` keeps the optuna study (the only optuna import), `progress` shows it.
"""
