"""The page of `bench loader`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from simvtp.bench.data_path.batch_speed import LoaderSpeed
from simvtp.bench.data_path.loader_speed import H264, JOBS, RAW, SIDE, STRIDE, Report, Settings
from simvtp.bench.measure import Timed
from simvtp.bench.step.step_page import conditions

MILLION_CLIPS = 1e6 / 1e12  # bytes of a clip -> terabytes of a million


def loader_page(report: Report, settings: Settings) -> str:
    """Markdown: reading, loading, memory, disk."""
    lines = [
        "# Reading and loading clips",
        "",
        *conditions(torch.device("cpu")),
        "",
        "## One clip, one thread",
        "",
        f"Clips a second of one core (1 / median CPU time) with short side {SIDE}; in brackets the ratio to decord on the same film (median "
        f"of {settings.rounds} rounds A B C, C B A). Each read opens the file anew. 16 strided: {STRIDE} frames apart, from a random start; "
        "4 spread: one random frame of each quarter. Films: 10 s, 25 frames a second, libx264 medium, 3 B-frames. Stores: every "
        f"{STRIDE}th frame, so that the same moments are read.",
        "",
        *_reading(report),
        "",
        "## Whole batches",
        "",
        f"Training batches of {settings.batch_size} clips of 16 x {SIDE} x {SIDE}, {settings.workers} workers, sources in turns; multi-scale "
        "crop unless another is named (a crop that has to be resized costs about as much as reading a small clip).",
        "",
        *_loading(report.loading, settings),
        "",
        f"## Memory over {settings.opens} opens, and disk",
        "",
        "| | KiB an open | MB a clip of 10 s | TB a million such clips |",
        "| --- | --: | --: | --: |",
    ]
    for name in report.memory:
        size = report.disk.get(name) or (report.disk["files"] if name not in (H264, RAW) else 0)
        lines.append(
            f"| {name} | {report.memory[name]:+.2f} | {size / 1e6:.2f} | {size * MILLION_CLIPS:.2f} |"
        )
    lines += ["", *(f"Not measured: {name} ({why})" for name, why in report.absent.items())]
    return "\n".join(lines).rstrip() + "\n"


def _reading(report: Report) -> list[str]:
    names = list(next(iter(report.reading.values())))
    lines = [
        f"| film | clip | {' | '.join(names)} |",
        f"| --- | --- | {' | '.join('--:' for _ in names)} |",
    ]
    for (film, job), times in report.reading.items():
        lines.append(
            f"| {film} | {job} | {' | '.join(_cell(times[name], times.get('decord')) for name in names)} |"
        )
    for job in JOBS:
        rows = [times for (_, its), times in report.reading.items() if its == job]
        cells = [
            _mean([times[name] for times in rows], [times.get("decord") for times in rows])
            for name in names
        ]
        lines.append(f"| geometric mean | {job} | {' | '.join(cells)} |")
    return lines


def _cell(time: Timed, decord: Timed | None) -> str:
    rate = 1 / statistics.median(time.cpu)
    return f"{rate:.1f}" + (
        "" if decord is None or decord is time else f" (×{time.ratio(decord, cpu=True)[0]:.2f})"
    )


def _mean(times: Sequence[Timed], decord: Sequence[Timed | None]) -> str:
    ratios = [
        own.ratio(its, cpu=True)[0]
        for own, its in zip(times, decord, strict=True)
        if its is not None
    ]
    return f"×{statistics.geometric_mean(ratios):.2f}" if ratios else "—"


def _loading(speeds: Sequence[LoaderSpeed], settings: Settings) -> list[str]:
    if not speeds:
        return ["Not measured in this run."]
    first = speeds[0]
    lines = [
        "| source | clips/s | × first | ms CPU a clip, main process | waiting | enough for steps of |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for speed in speeds:
        least, most = speed.extremes
        lines.append(
            f"| {speed.name} | {speed.rate:.1f} ({least:.1f}–{most:.1f}) | {speed.clip.ratio(first.clip)[0]:.2f} | "
            f"{speed.cpu_ms:.2f} | {f'{speed.wait:.0%} of steps of {1000 * settings.step_s:g} ms' if settings.step_s else '—'}"
            f" | {1000 * settings.batch_size / speed.rate:.0f} ms |"
        )
    return lines
