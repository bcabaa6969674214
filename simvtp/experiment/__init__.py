"""One experiment from its settings to its results: pre-train, zero-shot test, fine-tune, test.

`run` is a plain function: call it in a notebook, in a job, or under torchrun on many ranks. All its
state lies in the run directory, so it can be killed at any moment and called again: it continues at
the stage, and inside a training stage at the checkpoint, that it had reached. A finished experiment
is not run again.
"""

from __future__ import annotations

from simvtp.experiment.context import with_vocabulary
from simvtp.experiment.measuring import baseline_text
from simvtp.experiment.pictures import visualize
from simvtp.experiment.stages import STAGES, run

__all__ = ["STAGES", "baseline_text", "run", "visualize", "with_vocabulary"]
