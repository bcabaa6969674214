"""Setup commands of a job (`--setup`): the first one that fails ends the job and is named."""

from __future__ import annotations

import shlex

from sweeps.monitor.point_state import SETUP_FAILED


def checked_line(line: str) -> str:
    """Returns shell code that runs `line` in the same shell and exits with its status if it fails.

    The exit status of the job is that of the line, and its last line of output names it.
    """
    message = shlex.quote(f"{SETUP_FAILED}: {' '.join(line.split())}")
    return f"{{ {line}\n}} || {{ status=$?; echo {message} >&2; exit $status; }}"
