"""Plan of a training step: the encoder passes that a configuration needs, and their order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from simvtp.config.model_config import SimVTPConfig


class EncoderPass(StrEnum):
    """One sequence of tokens that goes through the encoder.

    Attributes:
        PAIR: visible tubes and the masked caption; for MVM, MLM, and the positives of VTM where
            they see the same (see `pair_gives_positives`).
        VIDEO: tubes alone, for VTC.
        TEXT: the caption alone, for VTC.
        MATCH: the other pairs of VTM: the negatives of one or both directions, or positives and
            negatives.
    """

    PAIR = "pair"
    VIDEO = "video"
    TEXT = "text"
    MATCH = "match"


@dataclass(frozen=True)
class PassGroup:
    """Encoder passes that run in one call.

    Attributes:
        passes: at least one.
        needs_grad: False for passes that only choose negatives.
    """

    passes: tuple[EncoderPass, ...]
    needs_grad: bool = True


@dataclass(frozen=True)
class PassPlan:
    """Encoder passes of one training step.

    Attributes:
        groups: in the order in which they run. Dropout is drawn in this order.
        pair_gives_positives: the pair pass gives the positives of VTM too.
        scores_negatives: the negatives of VTM are chosen by the features of VIDEO and TEXT.
        match_pairs: pairs of the pass MATCH for each sample.
    """

    groups: tuple[PassGroup, ...]
    pair_gives_positives: bool
    scores_negatives: bool
    match_pairs: int

    @property
    def passes(self) -> tuple[EncoderPass, ...]:
        """All passes, in the order in which they run."""
        return tuple(name for group in self.groups for name in group.passes)


def pair_gives_positives(config: SimVTPConfig) -> bool:
    """Returns True if the pair pass of MVM and MLM gives the positives of VTM too.

    It must be asked for, and VTM must see what is masked there.
    """
    masked = config.contrastive_text == config.contrastive_video == "masked"
    return config.reuse_pair_pass and masked


def plan_passes(
    config: SimVTPConfig,
    objectives: tuple[str, ...],
    *,
    merge: bool = False,
    negatives_given: bool = False,
) -> PassPlan:
    """Returns the encoder passes that the objectives need.

    Args:
        objectives: any of mvm, mlm, vtc, vtm.
        merge: run passes that do not need each other in one call.
        negatives_given: the negatives of VTM are given, so that no features are needed to choose
            them.
    """
    contrasting, matching = "vtc" in objectives, "vtm" in objectives
    scores_negatives = matching and config.vtm_negatives == "hard" and not negatives_given
    shared = matching and pair_gives_positives(config)

    order: list[EncoderPass] = []
    if "mvm" in objectives or "mlm" in objectives:
        order.append(EncoderPass.PAIR)
    if contrasting:
        order += [EncoderPass.VIDEO, EncoderPass.TEXT]
    elif scores_negatives:
        order += [EncoderPass.TEXT, EncoderPass.VIDEO]
    if shared and EncoderPass.PAIR not in order:
        order.append(EncoderPass.PAIR)
    if matching:
        order.append(EncoderPass.MATCH)

    features = (EncoderPass.VIDEO, EncoderPass.TEXT)
    merged = tuple(
        name
        for name in EncoderPass
        if name in order
        and (contrasting or name not in features)
        and not (name is EncoderPass.MATCH and scores_negatives)
    )
    groups = [PassGroup((name,), contrasting or name not in features) for name in order]
    if merge and len(merged) > 1:
        groups = [
            PassGroup(merged),
            *(group for group in groups if group.passes[0] not in merged),
        ]
    negatives = 2 if config.vtm_directions == "both" else 1
    return PassPlan(tuple(groups), shared, scores_negatives, negatives if shared else negatives + 1)
