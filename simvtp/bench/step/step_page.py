"""Measurements as Markdown, with all that is needed to repeat them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import torch

from simvtp.bench.step.implementations import OURS
from simvtp.bench.step.step_speed import SpeedRow, StepSpeedOptions, reference
from simvtp.runs.provenance import capture, without_credentials


def conditions(device: torch.device) -> list[str]:
    """Returns a Markdown table of command, commit, machine and date."""
    rows = condition_rows(device)
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]


def condition_rows(device: torch.device) -> dict[str, str]:
    """Returns command, commit, machine and date."""
    known = capture()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cores = f"{len(os.sched_getaffinity(0))} cores of {known.cpu or 'an unknown processor'}"
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    commit = (known.commit or known.note) + (" with uncommitted changes" if known.dirty else "")
    transformers = known.packages.get("transformers", "—")
    return {
        "command": f"`python -m simvtp {without_credentials(' '.join(sys.argv[1:]))}`",
        "commit": commit,
        "machine": (
            f"{gpu}{cores}; {torch.get_num_threads()} torch threads, OMP_NUM_THREADS {threads}"
        ),
        "load average at the end (1, 5, 15 minutes)": load,
        "software": (
            f"Python {known.python}, torch {torch.__version__}, transformers {transformers}"
        ),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def step_page(
    title: str, options: StepSpeedOptions, rows: Sequence[SpeedRow], device: torch.device
) -> str:
    """Returns the page of `bench step`."""
    kind = "peak memory" if device.type == "cuda" else "kept for backward"
    columns = (
        *("", "precision", "compiled", "ms a step", "clips/s", "× peer, wall"),
        *("× peer, CPU time", "GFLOP a clip", "GFLOP/s", "of the ceiling", kind, "largest batch"),
    )
    lines = [
        f"# {title}",
        "",
        *conditions(device),
        "",
        _explanation(options, device),
        "",
        f"|{' |'.join(f' {name}' if name else '' for name in columns)} |",
        f"| --- | --- | --- |{' --: |' * (len(columns) - 3)}",
        *(_line(row, reference(list(rows), row), options.samples, device) for row in rows),
    ]
    for text in (*_across_precisions(rows), *_profiles(rows)):
        lines += ["", text]
    return "\n".join(lines) + "\n"


def _explanation(options: StepSpeedOptions, device: torch.device) -> str:
    what = "MVM alone" if options.what == "mvm" else "all four losses"
    text = (
        f"Size {options.size}, batch {options.samples}, {what}; {options.rounds} rounds in turns "
        "(A B C, C B A, …), medians; ratios are medians within a round, least and most in "
        "brackets. The same weights, batch, masks and fused AdamW for all; forward, backward and "
        "update. GFLOP: matrix products and attention, forward and backward, counted by torch. "
        "Ceiling: square matrix products in the same precision, measured in the same rounds."
    )
    if device.type == "cpu":
        kept = "yes" if options.keep_memory else "no"
        text += f" Memory of the host kept between steps, for all: {kept}."
    return text


def _across_precisions(rows: Sequence[SpeedRow]) -> list[str]:
    """Returns one sentence for each of our rows in half precision against a peer in fp32."""
    return [
        f"ours in {row.precision}{' compiled' if row.compiled else ''} against {other.name} in "
        f"{other.precision}: × {row.time.ratio(other.time)[0]:.2f}"
        for row in rows
        for other in rows
        if row.name == OURS != other.name
        and row.precision != other.precision == "fp32"
        and not other.compiled
    ]


def _profiles(rows: Sequence[SpeedRow]) -> list[str]:
    found = []
    for row in rows:
        if row.profile:
            parts = ", ".join(f"{name} {fraction:.0%}" for name, fraction in row.profile)
            compiled = " compiled" if row.compiled else ""
            found.append(f"Profile of {row.name} in {row.precision}{compiled}: {parts}")
    return found


def _line(row: SpeedRow, peer: SpeedRow, samples: int, device: torch.device) -> str:
    wall = "1" if row is peer else spread(row.time.ratio(peer.time))
    cpu = "1" if row is peer else spread(row.time.ratio(peer.time, cpu=True))
    achieved = row.achieved(samples)
    values = [
        row.name,
        row.precision,
        "yes" if row.compiled else "no",
        f"{1000 * row.time.seconds:.1f}",
        f"{row.rate(samples):.2f}",
        wall,
        "—" if device.type == "cuda" else cpu,
        f"{row.flops / 1e9:.2f}",
        f"{achieved / 1e9:.1f}",
        f"{achieved / row.ceiling:.0%} of {row.ceiling / 1e9:.0f}",
        f"{row.memory / 2**20:.0f} MiB",
        str(row.largest or "—"),
    ]
    return f"| {' | '.join(values)} |"


def spread(ratio: tuple[float, float, float]) -> str:
    """Formats (median, minimum, maximum) as `1.62 (1.55–1.70)`."""
    return f"{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})"
