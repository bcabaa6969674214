"""Measurements as Markdown, with all that is needed to repeat them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import torch

from simvtp.bench.step.implementations import OURS
from simvtp.bench.step.step_speed import Plan, Row, reference
from simvtp.runs.provenance import capture, without_url_users


def conditions(device: torch.device) -> list[str]:
    """A table of command, commit, machine and date."""
    known = capture()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    machine = f"{gpu + ', ' if gpu else ''}{len(os.sched_getaffinity(0))} cores of {known.cpu or 'an unknown processor'}"
    rows = [
        ("command", f"`python -m simvtp {without_url_users(' '.join(sys.argv[1:]))}`"),
        (
            "commit",
            (known.commit or known.note) + (" with uncommitted changes" if known.dirty else ""),
        ),
        (
            "machine",
            f"{machine}; {torch.get_num_threads()} torch threads, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}",
        ),
        ("load average at the end (1, 5, 15 minutes)", load),
        (
            "software",
            f"Python {known.python}, torch {torch.__version__}, transformers {known.packages.get('transformers', '—')}",
        ),
        ("date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def step_page(title: str, plan: Plan, rows: Sequence[Row], device: torch.device) -> str:
    """The page of `bench step`."""
    kind = "peak memory" if device.type == "cuda" else "kept for backward"
    lines = [
        f"# {title}", "", *conditions(device), "",
        f"Size {plan.size}, batch {plan.samples}, {'MVM alone' if plan.what == 'mvm' else 'all four losses'}; {plan.rounds} rounds in turns "
        "(A B C, C B A, …), medians; ratios are medians within a round, least and most in brackets. The same weights, batch, masks and fused "
        "AdamW for all; forward, backward and update. GFLOP: matrix products and attention, forward and backward, counted by torch. Ceiling: "
        "square matrix products in the same precision, measured in the same rounds."
        + (f" Memory of the host kept between steps, for all: {'yes' if plan.keep_memory else 'no'}." if device.type == "cpu" else ""), "",
        f"| | precision | compiled | ms a step | clips/s | × peer, wall | × peer, CPU time | GFLOP a clip | GFLOP/s | of the ceiling | {kind} | largest batch |",
        "| --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
        *(_line(row, reference(list(rows), row), plan.samples, device) for row in rows),
    ]  # fmt: skip
    across = [
        f"ours in {row.precision}{' compiled' if row.compiled else ''} against {other.name} in {other.precision}: "
        f"× {row.time.ratio(other.time)[0]:.2f}"
        for row in rows
        for other in rows
        if row.name == OURS != other.name
        and row.precision != other.precision == "fp32"
        and not other.compiled
    ]
    profiles = [
        f"Profile of {row.name} in {row.precision}{' compiled' if row.compiled else ''}: "
        + ", ".join(f"{name} {share:.0%}" for name, share in row.profile)
        for row in rows
        if row.profile
    ]
    further = [line for part in (across, profiles) for text in part for line in ("", text)]
    return "\n".join([*lines, *further]) + "\n"


def _line(row: Row, peer: Row, samples: int, device: torch.device) -> str:
    values = [
        row.name,
        row.precision,
        "yes" if row.compiled else "no",
        f"{1000 * row.time.seconds:.1f}",
        f"{row.rate(samples):.2f}",
        "1" if row is peer else spread(row.time.ratio(peer.time)),
        "—"
        if device.type == "cuda"
        else "1"
        if row is peer
        else spread(row.time.ratio(peer.time, cpu=True)),
        f"{row.flops / 1e9:.2f}",
        f"{row.achieved(samples) / 1e9:.1f}",
        f"{row.achieved(samples) / row.ceiling:.0%} of {row.ceiling / 1e9:.0f}",
        f"{row.memory / 2**20:.0f} MiB",
        str(row.largest or "—"),
    ]
    return f"| {' | '.join(values)} |"


def spread(ratio: tuple[float, float, float]) -> str:
    """`1.62 (1.55–1.70)`."""
    return f"{ratio[0]:.2f} ({ratio[1]:.2f}–{ratio[2]:.2f})"
