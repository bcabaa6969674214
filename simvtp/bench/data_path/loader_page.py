"""The page of `bench loader`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from simvtp.bench.data_path.batch_speed import LoaderSpeed
from simvtp.bench.data_path.loader_speed import (
    H264,
    JOBS,
    RAW,
    SIDE,
    STRIDE,
    LoaderReport,
    LoaderSpeedOptions,
)
from simvtp.bench.measure import Timed
from simvtp.bench.step.step_page import conditions

MILLION_CLIPS = 1e6 / 1e12  # bytes of a clip -> terabytes of a million


def loader_page(report: LoaderReport, options: LoaderSpeedOptions) -> str:
    """Returns the Markdown page: reading, loading, memory, disk."""
    lines = [
        "# Reading and loading clips",
        "",
        *conditions(torch.device("cpu")),
        "",
        "## One clip, one thread",
        "",
        f"Clips a second of one core (1 / median CPU time) with short side {SIDE}; in brackets the "
        f"ratio to decord on the same video (median of {options.rounds} rounds A B C, C B A). Each "
        f"read opens the file again. 16 strided: {STRIDE} frames apart, from a random start; "
        "4 spread: one random frame of each quarter. Videos: 10 s, 25 frames a second, libx264 "
        f"medium, 3 B-frames. Stores: every {STRIDE}th frame, so that the same moments are read.",
        "",
        *_reading(report),
        "",
        "## Whole batches",
        "",
        f"Training batches of {options.batch_size} clips of 16 x {SIDE} x {SIDE}, "
        f"{options.workers} workers, sources in turns; multi-scale crop unless another is named (a "
        "crop that has to be resized costs about as much as reading a small clip).",
        "",
        *_loading(report.loading, options),
        "",
        f"## Memory over {options.opens} opens, and disk",
        "",
        "| | KiB an open | MB a clip of 10 s | TB a million such clips |",
        "| --- | --: | --: | --: |",
    ]
    for name, growth in report.memory.items():
        size = report.disk.get(name) or (report.disk["files"] if name not in (H264, RAW) else 0)
        million = size * MILLION_CLIPS
        lines.append(f"| {name} | {growth:+.2f} | {size / 1e6:.2f} | {million:.2f} |")
    lines += ["", *(f"Not measured: {name} ({why})" for name, why in report.absent.items())]
    return "\n".join(lines).rstrip() + "\n"


def _reading(report: LoaderReport) -> list[str]:
    names = list(next(iter(report.reading.values())))
    lines = [
        f"| video | clip | {' | '.join(names)} |",
        f"| --- | --- | {' | '.join('--:' for _ in names)} |",
    ]
    for (video, job), times in report.reading.items():
        cells = [_cell(times[name], times.get("decord")) for name in names]
        lines.append(f"| {video} | {job} | {' | '.join(cells)} |")
    for job in JOBS:
        rows = [times for (_, its), times in report.reading.items() if its == job]
        decord = [times.get("decord") for times in rows]
        cells = [_mean([times[name] for times in rows], decord) for name in names]
        lines.append(f"| geometric mean | {job} | {' | '.join(cells)} |")
    return lines


def _cell(time: Timed, decord: Timed | None) -> str:
    rate = f"{1 / statistics.median(time.cpu):.1f}"
    if decord is None or decord is time:
        return rate
    return f"{rate} (×{time.ratio(decord, cpu=True)[0]:.2f})"


def _mean(times: Sequence[Timed], decord: Sequence[Timed | None]) -> str:
    ratios = [
        own.ratio(its, cpu=True)[0]
        for own, its in zip(times, decord, strict=True)
        if its is not None
    ]
    return f"×{statistics.geometric_mean(ratios):.2f}" if ratios else "—"


def _loading(speeds: Sequence[LoaderSpeed], options: LoaderSpeedOptions) -> list[str]:
    if not speeds:
        return ["Not measured in this run."]
    first, step_ms = speeds[0], 1000 * options.step_s
    lines = [
        "| source | clips/s | × first | ms CPU a clip, main process | waiting "
        "| enough for steps of |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for speed in speeds:
        least, most = speed.extremes
        cells = (
            speed.name,
            f"{speed.rate:.1f} ({least:.1f}–{most:.1f})",
            f"{speed.clip.ratio(first.clip)[0]:.2f}",
            f"{speed.cpu_ms:.2f}",
            f"{speed.wait:.0%} of steps of {step_ms:g} ms" if options.step_s else "—",
            f"{1000 * options.batch_size / speed.rate:.0f} ms",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
