"""An experiment imports nothing before its first step that only later parts need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.small import small_settings

LATER = (
    "mlflow",
    "sqlalchemy",
    "alembic",
    "optuna",
    "submitit",
    "transformers",
    "torch._dynamo",
    "torch._inductor",
    "sympy",
    "matplotlib",
)
PROGRAM = """
import json, sys
from simvtp.__main__ import main
from simvtp.training.stage_run import StageRun

class Seen(BaseException):
    pass

step = StageRun.step
def first(run, batch):
    step(run, batch)
    print("LOADED", json.dumps(sorted(sys.modules)))
    raise Seen

StageRun.step = first
try:
    main(sys.argv[1:])
except Seen:
    pass
"""


def test_the_first_step_needs_no_tracker_no_transformers_and_no_compiler(
    tmp_path: Path, shapes_cache: Path
) -> None:
    settings = small_settings(
        tmp_path, shapes_cache, "runtime.tracking_uri=", "runtime.sync_every_s=600"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "run", "tiny", *settings], capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOADED ")]
    assert lines, done.stderr[-2000:]
    loaded = set(json.loads(lines[0].removeprefix("LOADED ")))
    assert {"torch", "simvtp.training.loop", "tokenizers"} <= loaded
    assert not loaded & set(LATER)
