"""`python -m simvtp COMMAND`: one experiment, its data, its pictures, its checks.

The commands stand in `simvtp/cli`; what can go wrong for reasons outside the code ends in one
sentence and status 2.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from simvtp.cli import bench, data, experiments, tools
from simvtp.errors import UserError

GROUPS = (experiments, data, bench, tools)

EXAMPLES = """\
examples:
  python -m simvtp run tiny                                        the whole experiment on the embedded data set
  python -m simvtp run tiny masks.video_ratio=0.75 seed=1          any setting can be changed by its name
  python -m simvtp run tiny data.dataset=manifest data.manifest=clips.csv
  python -m simvtp finetune qa --init runs/0123456789ab            question answering with the encoder that a run has pre-trained
  python -m simvtp settings tiny                                   all settings of a recipe
  python -m simvtp describe base                                   parameters and FLOPs, part by part
  python -m simvtp visualize runs/0123456789ab                     pictures of what a model rebuilds
  python -m simvtp data list                                       the benchmarks that can be read from their own files
  python -m simvtp data check clips.csv                            decode every clip and say what is wrong
  python -m simvtp data check msrvtt --root DIR --decode           the same for a benchmark, and which protocols its files allow
  python -m simvtp data shard clips.csv shards --size 256          the same clips, small, in tar shards
  python -m simvtp bench loader clips.csv shards                   how fast batches come from files and from shards
  python -m simvtp parity tests/fixtures/simvtp_released_a.safetensors
  python -m simvtp sync runs                                       replay journals into the tracker
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m simvtp",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in GROUPS:
        group.register(commands)
    return top


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """As argparse does, but settings may also stand behind options: `finetune qa --init RUN
    key=value`.
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
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
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
