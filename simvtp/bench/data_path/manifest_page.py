"""The page of `bench manifest`."""

from __future__ import annotations

from simvtp.bench.data_path.manifest_size import BATCH, FEW, ManifestCost, ManifestSizes


def manifest_rows(sizes: ManifestSizes) -> list[tuple[str, str, str]]:
    """Returns (what, before, now) as texts; — where nothing was measured."""
    clips = BATCH * sizes.options.batches

    def row(what: str, value: str) -> tuple[str, str, str]:
        sides = [sizes.other, sizes.ours]
        before, now = ("—" if cost is None else _value(cost, value, clips) for cost in sides)
        return what, before, now

    return [
        row("rows", "rows"),
        row("the table, bytes a row", "table"),
        row("columns in the cache, bytes a row", "columns"),
        row("first opening, with the digest, s", "first_open"),
        row("… CPU time, s", "first_cpu"),
        row("each further one, s", "open"),
        row("… CPU time, s", "cpu"),
        row("to the first batch, for the first time, s", "first_batch_first"),
        row("to the first batch, later, s", "first_batch"),
        row("peak of the main process at the first opening, bytes a row", "peak"),
        row("main process at the first batch, resident, bytes a row", "main_first"),
        row(f"… after {clips} clips", "main_later"),
        row("… of which private", "main_private"),
        row("a worker at the first batch, resident, bytes a row", "worker_first"),
        row(f"… after {clips} clips", "worker_later"),
        row("… of which private", "worker_private"),
        row("a worker's private memory, growth over these clips, bytes a clip of its own", "grown"),
        row("… of which heap; the rest are pages of the columns' file", "grown_heap"),
    ]


def _value(cost: ManifestCost, name: str, clips: int) -> str:
    again, first = cost.again, cost.first
    if name.startswith("grown"):
        kind = "heap" if name == "grown_heap" else "private"
        workers = again["later"]["workers"]
        own = max(1, clips // max(1, len(workers)))
        before = sum(worker[kind] for worker in again["first"]["workers"])
        grown = sum(worker[kind] for worker in workers) - before
        return f"{grown / max(1, len(workers)) / own:.0f}"
    values = {
        "rows": lambda: f"{cost.rows:,}",
        "table": lambda: f"{cost.table_bytes / cost.rows:.0f}",
        "columns": lambda: f"{cost.column_bytes / cost.rows:.0f}" if cost.column_bytes else "none",
        "first_open": lambda: f"{first['digest_s'] + first['open_s']:.1f}",
        "open": lambda: f"{again['digest_s'] + again['open_s']:.1f}",
        "first_cpu": lambda: f"{first['open_cpu_s']:.1f}",
        "cpu": lambda: f"{again['open_cpu_s']:.1f}",
        "first_batch_first": lambda: f"{first['first_batch_s']:.1f}",
        "first_batch": lambda: f"{again['first_batch_s']:.1f}",
        "peak": lambda: f"{cost.peak_bytes():.0f}",
        "main_first": lambda: f"{cost.main_bytes('first'):.0f}",
        "main_later": lambda: f"{cost.main_bytes('later'):.0f}",
        "main_private": lambda: f"{cost.main_bytes('later', 'private'):.0f}",
        "worker_first": lambda: f"{cost.worker_bytes('first'):.0f}",
        "worker_later": lambda: f"{cost.worker_bytes('later'):.0f}",
        "worker_private": lambda: f"{cost.worker_bytes('later', 'private'):.0f}",
    }
    return values[name]()


def manifest_page(sizes: ManifestSizes) -> str:
    """Returns the Markdown page."""
    rows = manifest_rows(sizes)
    other = sizes.other.commit[:12] if sizes.other else "—"
    return "\n".join(
        [
            "# Memory and time of a large manifest",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in sizes.conditions.items()),
            "",
            "Made-up rows, as long as those of stock videos. Bytes a row are those beyond what a "
            f"table of {FEW} rows costs. Resident are private pages, those that processes share, "
            "and those of mapped files that a process has looked at. Films are not decoded: a "
            f'reader gives zeros. {sizes.options.workers} workers. "Later" means that the '
            "columns lie in the cache.",
            "",
            f"| | before ({other}) | now |",
            "| --- | --: | --: |",
            *(f"| {what} | {before} | {now} |" for what, before, now in rows),
            "",
        ]
    )
