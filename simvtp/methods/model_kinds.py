"""Kinds of models that are exported: how each is described in a file and built again.

Sizes of heads are read from the shapes of the weights, all else from the settings of the model and
from the options of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from simvtp.config.model_config import MACConfig, ModelConfig, SimVTPConfig
from simvtp.config.tree import narrow
from simvtp.errors import CheckpointError
from simvtp.methods import METHODS, method_of
from simvtp.models.downstream.action_model import VideoClassifier
from simvtp.models.downstream.cross_encoder import AnswerHead, MatchHead, PairEncoder, PairModel
from simvtp.models.downstream.grounding_model import GroundingModel
from simvtp.models.downstream.retrieval_encoders import DualEncoder, SharedEncoder
from simvtp.models.mac.mac_model import MAC
from simvtp.models.simvtp.simvtp_model import SimVTP
from simvtp.models.weights.pretrained import config_of

Options = Mapping[str, Any]
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class ModelKind:
    """One kind of model.

    Attributes:
        name: in config.json.
        model: its class.
        build: (settings, state dict, options) -> the model with any weights.
        options: (model) -> what neither settings nor shapes of weights tell, plain JSON values.
    """

    name: str
    model: type[nn.Module]
    build: Callable[[ModelConfig, State, Options], nn.Module]
    options: Callable[[Any], dict[str, Any]]


def _pretrained(config: ModelConfig, state: State, options: Options) -> nn.Module:
    return method_of(config).build(config, tuple(options["objectives"]), seed=0)


def _dual(config: ModelConfig, state: State, options: Options) -> DualEncoder:
    return DualEncoder(narrow(config, SimVTPConfig))


def _shared(config: ModelConfig, state: State, options: Options) -> SharedEncoder:
    return SharedEncoder(narrow(config, SimVTPConfig))


def _classifier(config: ModelConfig, state: State, options: Options) -> VideoClassifier:
    classes = len(state["head.weight"])
    return VideoClassifier(narrow(config, SimVTPConfig), classes, options["probe"])


def _probe(model: VideoClassifier) -> dict[str, Any]:
    attentive = "attentive" if model.pool is not None else "linear"
    return {"probe": attentive if model.frozen else "none"}


def _pair_encoder(config: ModelConfig, state: State, options: Options) -> PairEncoder:
    blind = "pair.video_embedding.proj.weight" not in state
    return PairEncoder(narrow(config, SimVTPConfig), blind, options["drop_tubes"])


def _pair(config: ModelConfig, state: State, options: Options) -> PairModel:
    pair = _pair_encoder(config, state, options)
    outputs = len(state["head.out.weight"])
    answers = "head.hidden.weight" in state
    head = AnswerHead(config.dim, outputs, pair.blind) if answers else MatchHead(config.dim)
    return PairModel(pair, head)


def _grounding(config: ModelConfig, state: State, options: Options) -> GroundingModel:
    return GroundingModel(_pair_encoder(config, state, options), options["segments"])


def _objectives(model: SimVTP | MAC) -> dict[str, Any]:
    return {"objectives": list(model.objectives)}


def _no_options(model: nn.Module) -> dict[str, Any]:
    return {}


def _drop_tubes(model: PairModel | GroundingModel) -> dict[str, Any]:
    return {"drop_tubes": model.pair.drop_tubes.ratio}


def _segments(model: GroundingModel) -> dict[str, Any]:
    return {**_drop_tubes(model), "segments": model.segments}


DUAL = ModelKind("dual", DualEncoder, _dual, _no_options)
SHARED = ModelKind("shared", SharedEncoder, _shared, _no_options)
CLASSIFIER = ModelKind("classifier", VideoClassifier, _classifier, _probe)
PAIR = ModelKind("pair", PairModel, _pair, _drop_tubes)
GROUNDING = ModelKind("grounding", GroundingModel, _grounding, _segments)
PRETRAINED = {
    "simvtp": ModelKind("simvtp", SimVTP, _pretrained, _objectives),
    "mac": ModelKind("mac", MAC, _pretrained, _objectives),
}
assert PRETRAINED.keys() == METHODS.keys()
KINDS = {
    kind.name: kind for kind in (*PRETRAINED.values(), DUAL, SHARED, CLASSIFIER, PAIR, GROUNDING)
}


def pretrained_kind(config: ModelConfig) -> ModelKind:
    """Returns the kind of a pre-training model; a method of a plugin has that of its settings."""
    return PRETRAINED["mac" if isinstance(config, MACConfig) else "simvtp"]


def kind_of(model: nn.Module) -> ModelKind:
    """Returns the kind of a model.

    Raises:
        CheckpointError: it is of none.
    """
    for kind in KINDS.values():
        if type(model) is kind.model:
            return kind
    raise CheckpointError(f"a {type(model).__name__} cannot be exported: no kind of model has it.")


def settings_of(model: nn.Module) -> ModelConfig:
    """Returns the settings that a model of any kind was built with."""
    return config_of(model.pair if isinstance(model, PairModel | GroundingModel) else model)


def word_count(state: State) -> int:
    """Returns the number of word pieces that a state dict has vectors of; 0 if it has none."""
    names = ("word.weight", "word_embeddings.weight")
    return next((len(value) for name, value in state.items() if name.endswith(names)), 0)
