"""An ablation along one axis of named cells, each of which changes some settings: what most files
of this folder are.

A file says its question and which settings each cell has; that the cells fit the base experiment
(its sizes, its schedule) is the work of a function of the base. All else is the same for all of
them and is done here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.design import Ablation, Axis, retrieval_metric
from simvtp.config.experiment_config import Experiment
from simvtp.errors import ConfigError

Cells = Mapping[str, Mapping[str, Any]]  # {"raw pixels": {"losses.mvm_target": "raw"}, ...}


@dataclass(frozen=True)
class Variants:
    """What a file of this folder declares; `build` makes the ablation.

    Attributes: name, title, question, paper_says: as those of `Ablation`. label: of the axis; its
        key is `name`. cells: what there is to compare for a base experiment, in the order of the
        table. small: the cells that the recipe `tiny` runs where nothing else is asked for; None:
        all of them. short: what a progress line calls the axis. baseline: the cell that the others
        are compared with, for a base experiment; None: the first of `cells`, whatever is run of
        them and
            in which order.
    """

    name: str
    title: str
    question: str
    paper_says: str
    label: str
    cells: Callable[[Experiment], Cells]
    small: Callable[[Experiment], Sequence[str]] | None = None
    short: str = ""
    baseline: Callable[[Experiment], str] | None = None

    def build(
        self,
        base: Experiment,
        cells: Sequence[str] | None = None,
        seeds: Sequence[int] = (0,),
        full: bool = False,
    ) -> Ablation:
        """The ablation. Without `cells`: the small choice for the recipe `tiny` (unless `full`),
        all for any other.
        """
        settings = self.cells(base)
        small = base.name == "tiny" and not full and self.small is not None
        wanted = cells or (self.small(base) if small and self.small else tuple(settings))
        for name in wanted:
            if name not in settings:
                raise ConfigError(
                    f"--cells {name}: the ablation '{self.name}' has no such cell; choose of: {', '.join(settings)}."
                )
        return Ablation(
            name=self.name,
            title=self.title,
            question=self.question,
            paper_says=self.paper_says,
            base=base,
            axes=(
                Axis(
                    self.name,
                    self.label,
                    tuple(dict.fromkeys(wanted)),
                    short=self.short or self.name,
                    settings=settings,
                ),
            ),
            seeds=tuple(seeds),
            metric=retrieval_metric(base),
            metric_label="text-to-video R@1 (%)",
            baseline={self.name: self.baseline(base) if self.baseline else next(iter(settings))},
        )
