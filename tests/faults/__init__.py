"""A campaign of random faults: `python -m tests.faults --minutes 30`."""
