"""WHAT is compared. One module a paper table, and one for the search; `ABLATIONS` names the
function that builds each.
"""

from collections.abc import Callable

from ablations import (
    contrastive_view,
    data_fraction,
    decoder_masking,
    fidelity,
    frames_and_stride,
    initialisation,
    losses,
    mac,
    mask_ratio,
    mask_strategy,
    masks_per_clip,
    negatives,
    pooling,
    prediction_vs_alignment,
    schedule,
    search,
    target,
    text_decoder,
    token_merging,
    unified_encoder,
    video_decoder,
)
from ablations.design import Ablation
from ablations.search import Search

ABLATIONS: dict[str, Callable[..., Ablation | Search]] = {
    "mask_ratio": mask_ratio.build,
    "mask_strategy": mask_strategy.build,
    "losses": losses.build,
    "data_fraction": data_fraction.build,
    "text_decoder": text_decoder.build,
    "video_decoder": video_decoder.build,
    "unified_encoder": unified_encoder.build,
    "contrastive_view": contrastive_view.build,
    "negatives": negatives.build,
    "pooling": pooling.build,
    "initialisation": initialisation.build,
    "frames_and_stride": frames_and_stride.build,
    "schedule": schedule.build,
    "target": target.build,
    "decoder_masking": decoder_masking.build,
    "masks_per_clip": masks_per_clip.build,
    "token_merging": token_merging.build,
    "fidelity": fidelity.build,
    "mac": mac.build,
    "prediction_vs_alignment": prediction_vs_alignment.build,
    "search": search.build,
}
