"""Runs comparisons: one script per sweep, and commands that show, cancel and repair sweeps.

At the top are the scripts that a user types; `cli` is their shared command line. `engine` is the
loop of a sweep, `study` its Optuna study, `runner` its jobs (submitit, SLURM), `monitor` reads and
shows its state, `monitor.repair` ends and repairs, `compat` has parts of libraries that are private
there."""
