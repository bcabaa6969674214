"""Command line: experiments, their data and pictures, sweeps, reports, checks.

Errors whose cause lies outside the code end in one sentence and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from simvtp import __version__
from simvtp.cli import bench, data, experiments, programs, run_table, search, tools
from simvtp.console import command_text, log_to_terminal
from simvtp.errors import UserError
from simvtp.plugins import OPTION, take_plugins

GROUPS = (experiments, programs, run_table, search, data, bench, tools)

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
  # the same settings as a file, and an experiment from it; settings of an earlier run, changed
  python -m simvtp settings tiny --yaml > experiment.yaml
  python -m simvtp run experiment.yaml masks.video_ratio=0.75
  python -m simvtp run runs/0123456789ab seed=1
  # a sweep, its state, its report; each has its own --help
  python -m simvtp sweep mask_ratio --seeds 0,1,2
  python -m simvtp status --watch
  python -m simvtp report mask_ratio
  # reconstructions and example pages of a run
  python -m simvtp visualize runs/0123456789ab
  # features of films; an index of a folder; the films that are closest to a sentence
  python -m simvtp embed a.mp4 b.webm --model runs/0123456789ab --out features.npz
  python -m simvtp index videos --model runs/0123456789ab --out videos.idx
  python -m simvtp search "a red star rises" --index videos.idx --html found.html
  # what the model of a run answers about films
  python -m simvtp predict runs/0123456789ab a.mp4 --question "what color is the ring ?"
  # a model that leaves its run, with a model card
  python -m simvtp export runs/0123456789ab exported
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


class _Parser(argparse.ArgumentParser):
    """Parser that names the nearest match of a misspelt command, without the usage text."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"[^\s',]+", wrong[2])
            near = difflib.get_close_matches(wrong[1], known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            message = f"'{wrong[1]}' is not known: {hint}"
        self.exit(2, f"error: {message}; `{self.prog} --help` lists what there is.\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser with the commands of all groups."""
    prog = command_text("python -m simvtp", "").strip()
    top = _Parser(
        prog=prog,
        description=__doc__,
        epilog=EXAMPLES.replace("python -m simvtp", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        OPTION,
        metavar="FILE.py",
        help="load data sets, methods, tasks, ablations or reports of a file (docs/extend.md)",
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
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        words = take_plugins(words)
        if words and words[0] in programs.PROGRAMS:
            status = programs.start_program(words[0], words[1:])
        else:
            options = _parse(words)
            log_to_terminal(logging.INFO, "%(levelname)s %(name)s: %(message)s")
            status = int(options.handle(options))
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (`| head`) has left
        # the interpreter flushes standard output once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
