"""Command line of one experiment: its data, its training, its pictures, its checks.

Errors whose cause lies outside the code end in one sentence and exit status 2.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from simvtp import __version__
from simvtp.cli import bench, data, experiments, search, tools
from simvtp.console import log_to_terminal
from simvtp.errors import UserError

GROUPS = (experiments, search, data, bench, tools)

EXAMPLES = """\
examples:
  # the whole experiment on the embedded data set, and with changed settings
  python -m simvtp run tiny
  python -m simvtp run tiny masks.video_ratio=0.75 seed=1
  python -m simvtp run tiny data.dataset=manifest data.manifest=clips.csv
  # question answering with the encoder that a run has pre-trained
  python -m simvtp finetune qa --init runs/0123456789ab
  # all settings of a recipe; parameters and FLOPs of its model, part by part
  python -m simvtp settings tiny
  python -m simvtp describe base
  # reconstructions and example pages of a run
  python -m simvtp visualize runs/0123456789ab
  # features of films; an index of a folder; the films that are closest to a sentence
  python -m simvtp embed a.mp4 b.webm --model runs/0123456789ab --out features.npz
  python -m simvtp index videos --model runs/0123456789ab --out videos.idx
  python -m simvtp search "a red star rises" --index videos.idx --html found.html
  # what the model of a run answers about films
  python -m simvtp predict runs/0123456789ab a.mp4 --question "what color is the ring ?"
  # the benchmarks that are supported; a check of clips, or of a benchmark's files
  python -m simvtp data list
  python -m simvtp data check clips.csv
  python -m simvtp data check msrvtt --root DIR --decode
  # the same clips, small, in tar shards, and the speed of both
  python -m simvtp data shard clips.csv shards --size 256
  python -m simvtp bench loader clips.csv shards
  # comparison with the released implementation; replay of journals into the tracker
  python -m simvtp parity tests/fixtures/simvtp_released_a.safetensors
  python -m simvtp sync runs
"""


def parser() -> argparse.ArgumentParser:
    """Returns the parser with the commands of all groups."""
    top = argparse.ArgumentParser(
        prog="python -m simvtp",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"simvtp {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    return top


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses as argparse does, but settings may also follow options.

    `finetune qa --init RUN key=value` is one command line.
    """
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest:
        if not hasattr(options, "overrides") or any(
            text.startswith("-") or "=" not in text for text in rest
        ):
            top.error(f"unrecognized arguments: {' '.join(rest)}")
        options.overrides = [*options.overrides, *rest]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parse(arguments)
    log_to_terminal(logging.INFO, "%(levelname)s %(name)s: %(message)s")
    try:
        status: int = options.handle(options)
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
