"""Video x text mask ratio: `python sweeps/mask_ratio.py --help`."""

import sys

from ablations import mask_ratio
from sweeps.cli.command import AxisOption, Sweep, main

SWEEP = Sweep(
    name="mask_ratio",
    build=mask_ratio.build,
    axes=(
        AxisOption(
            "--video-ratios",
            "video_ratios",
            "shares of video tubes to hide, in [0, 1) (default: 0.5,0.9 for tiny, else the full grid)",
        ),
        AxisOption(
            "--text-ratios",
            "text_ratios",
            "shares of words to hide, in [0, 1) (default: 0.15,0.75 for tiny, else the full grid)",
        ),
    ),
    description="How much to hide: a grid over the video and the text mask ratio. Published optimum: video 0.90, text 0.75.",
    examples="  python sweeps/mask_ratio.py --video-ratios 0.5,0.75,0.9 --text-ratios 0.15,0.75\n",
)

if __name__ == "__main__":
    sys.exit(main(SWEEP))
