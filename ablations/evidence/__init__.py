"""Evidence that a comparison needs: power before a sweep, a stopping rule while it runs.

`power` computes the seeds that a fixed sweep needs, `stopping_rule` decides comparisons while seeds
are added, `sequential_levels` computes the levels of its tests, `until_decided` is a grid with such
a rule, `sequential_simulation` measures its error rates.
"""
