"""`bench manifest`: memory and time of a large manifest."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from simvtp.errors import ConfigError

if TYPE_CHECKING:
    from simvtp.cli import Commands


def register(bench: Commands) -> None:
    """Adds the command."""
    manifest = bench.add_parser(
        "manifest", help="memory of a loader and time to its first batch, by rows of a manifest"
    )
    manifest.add_argument("--rows", type=int, default=10_000_000, help="of the made-up table")
    manifest.add_argument("--workers", type=int, default=2)
    manifest.add_argument("--batches", type=int, default=1000, help="taken behind the first one")
    manifest.add_argument(
        "--against", type=Path, help="another checkout of the project, measured too"
    )
    manifest.add_argument(
        "--against-rows", type=int, default=0, help="rows for it; default: as many"
    )
    manifest.add_argument(
        "--folder", type=Path, help="folder of tables and cache, kept; default: a temporary one"
    )
    manifest.add_argument(
        "--out", type=Path, help="write page and values there, a file .md or a folder"
    )
    manifest.set_defaults(handle=_manifest)


def _manifest(options: argparse.Namespace) -> int:
    import tempfile
    import time

    import torch

    from simvtp.bench.data_path.manifest_page import manifest_page
    from simvtp.bench.data_path.manifest_size import (
        FEW,
        ManifestSizeOptions,
        measure_manifest,
    )
    from simvtp.bench.step.step_page import condition_rows
    from simvtp.runs.atomic_files import write_atomically

    if options.rows < FEW or options.workers < 1 or options.batches < 0:
        raise ConfigError(
            f"bench manifest needs --rows of at least {FEW}, --workers of at least 1 and "
            "--batches of at least 0."
        )
    with tempfile.TemporaryDirectory() as temporary:
        settings = ManifestSizeOptions(
            program=Path(__file__).with_name("manifest_probe.py"),
            folder=options.folder or Path(temporary),
            rows=options.rows,
            workers=options.workers,
            batches=options.batches,
            against=options.against,
            against_rows=options.against_rows,
        )
        sizes = measure_manifest(settings)
    sizes.conditions = condition_rows(torch.device("cpu"))
    page = manifest_page(sizes)
    print(page)
    if options.out:
        place = (
            options.out / f"{time.strftime('%Y-%m-%d', time.gmtime())}-manifest.md"
            if options.out.suffix != ".md"
            else options.out
        )
        write_atomically(place, page)
        write_atomically(place.with_suffix(".json"), sizes.document())
    return 0
