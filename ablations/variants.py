"""Ablations along one axis of named cells, each of which changes some settings.

Most files of this package are one. A file states its question and the settings of each cell. If
these depend on the base experiment (its sizes, its schedule), they are a function of it. All else
is the same for all of them and is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.base_recipe import SMALL_GRID_RECIPES
from ablations.design import Ablation, Axis
from ablations.headline import headline
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError

Cells = Mapping[str, Mapping[str, Any]]  # {"raw pixels": {"losses.mvm_target": "raw"}, ...}


@dataclass(frozen=True)
class Variants:
    """Declaration of an ablation; `build` makes it.

    Attributes:
        name, title, question, paper_says: as those of `Ablation`.
        label: of the axis, whose key is `name`.
        cells: the cells, in the order of the table; a function of the base experiment if they
            depend on it.
        small: the cells that the recipe `tiny` runs by default; None: all of them.
        short: name of the axis in progress lines.
        baseline: the cell that the others are compared with; None: the first of `cells`.
        retrieval_only: a cell is a model that no other task can be built on.
    """

    name: str
    title: str
    question: str
    paper_says: str
    label: str
    cells: Cells | Callable[[Experiment], Cells]
    small: Sequence[str] | Callable[[Experiment], Sequence[str]] | None = None
    short: str = ""
    baseline: Callable[[Experiment], str] | None = None
    retrieval_only: bool = False

    def build(
        self,
        base: Experiment,
        cells: Sequence[str] | None = None,
        seeds: Sequence[int] = (0,),
        full: bool = False,
    ) -> Ablation:
        """Makes the ablation.

        Args:
            base: the experiment that every cell changes.
            cells: names of the cells; default: the small choice for the recipe `tiny`, all for any
                other.
            seeds: each cell is run once per seed.
            full: all cells by default, for the recipe `tiny` as well.

        Raises:
            ConfigError: there is no such cell, or the base's task does not go with the cells.
        """
        task = base.finetune.task.name
        if self.retrieval_only and base.finetune.enabled and task != "retrieval":
            raise ConfigError(
                f"the ablation '{self.name}' has models that finetune.task={task} cannot be built "
                "on: choose a recipe that is fine-tuned for retrieval."
            )
        settings = self.cells(base) if callable(self.cells) else self.cells
        wanted = cells or tuple(settings)
        if not cells and self.small is not None and base.name in SMALL_GRID_RECIPES and not full:
            wanted = self.small(base) if callable(self.small) else self.small
        for name in wanted:
            if name not in settings:
                raise ConfigError(
                    f"--cells {name}: the ablation '{self.name}' has no such cell; "
                    f"choose from: {', '.join(settings)}."
                )
        axis = Axis(
            self.name,
            self.label,
            tuple(dict.fromkeys(wanted)),
            short=self.short or self.name,
            settings=settings,
        )
        first = self.baseline(base) if self.baseline else next(iter(settings))
        return Ablation(
            name=self.name,
            title=self.title,
            question=self.question,
            paper_says=self.paper_says,
            base=base,
            axes=(axis,),
            seeds=tuple(seeds),
            metric=headline(base).metric,
            metric_label=headline(base).label,
            baseline={self.name: first},
        )


def one_setting(key: str, values: Mapping[str, Any]) -> Cells:
    """Returns cells that change one setting: {name of the cell: its value}."""
    return {name: {key: value} for name, value in values.items()}


def two_settings(
    keys: tuple[str, str], pairs: Iterable[tuple[Any, Any]], name: Callable[[Any, Any], str]
) -> Cells:
    """Returns cells that change two settings together.

    Args:
        keys: the settings.
        pairs: their values in each cell.
        name: makes the name of a cell from its values.
    """
    return {name(*pair): dict(zip(keys, pair, strict=True)) for pair in pairs}
