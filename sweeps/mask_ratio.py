"""Sweeps the video and the text mask ratio: `python sweeps/mask_ratio.py --help`."""

import sys

from ablations import mask_ratio
from ablations.command_line import AxisOption
from sweeps.cli.command import main
from sweeps.cli.sweep_parser import SweepScript

SWEEP = SweepScript(
    name="mask_ratio",
    build=mask_ratio.build,
    axes=(
        AxisOption(
            "--video-ratios",
            "video_ratios",
            "ratios of video tubes to mask, in [0, 1) (default: 0.9,0.95 for the tiny recipes, "
            "else the full grid)",
        ),
        AxisOption(
            "--text-ratios",
            "text_ratios",
            "ratios of words to mask, in [0, 1) (default: 0.15,0.75 for the tiny recipes, "
            "else the full grid)",
        ),
    ),
    description="A grid over the video and the text mask ratio. "
    "Published optimum: video 0.90, text 0.75.",
    examples="  python sweeps/mask_ratio.py --video-ratios 0.5,0.75,0.9 --text-ratios 0.15,0.75\n",
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
