"""Masked video-text pre-training: SimVTP and what is needed to check its claims.

A short way to everything that a program or a notebook needs:

    import simvtp
    model = simvtp.load("runs/5c8bd963e02f")
    index = model.index("videos/", save="videos.idx")
    model.search("a red star rises", index, k=5)

What `__all__` names is imported on its first use, so `import simvtp` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvtp.config.experiment_config import Experiment
    from simvtp.config.overrides import override
    from simvtp.config.recipes import get_recipe
    from simvtp.errors import UserError
    from simvtp.library.export.export_model import push_to_hub
    from simvtp.library.export.export_run import export
    from simvtp.library.open_model import load
    from simvtp.library.prediction.open_predictor import load_predictor
    from simvtp.library.prediction.predicted_answers import Answer, Prediction
    from simvtp.library.prediction.task_model import TaskModel
    from simvtp.library.run_experiment import run
    from simvtp.library.search_page import write_search_page
    from simvtp.library.search_picture import write_search_picture
    from simvtp.library.video_index import SearchHit, VideoIndex, load_index
    from simvtp.library.video_text_model import VideoTextModel
    from simvtp.methods.exported_model import from_pretrained, save_pretrained
    from simvtp.models.mac.mac_model import MAC
    from simvtp.models.simvtp.simvtp_model import SimVTP
    from simvtp.runs.results import Result
    from simvtp.runs.rundir import load_experiment, load_results

__version__ = "0.1.0"
__all__ = [
    "MAC",
    "Answer",
    "Experiment",
    "Prediction",
    "Result",
    "SearchHit",
    "SimVTP",
    "TaskModel",
    "UserError",
    "VideoIndex",
    "VideoTextModel",
    "__version__",
    "export",
    "from_pretrained",
    "get_recipe",
    "load",
    "load_experiment",
    "load_index",
    "load_predictor",
    "load_results",
    "override",
    "push_to_hub",
    "run",
    "save_pretrained",
    "write_search_page",
    "write_search_picture",
]

_MODULES = {
    "simvtp.config.experiment_config": ("Experiment",),
    "simvtp.config.overrides": ("override",),
    "simvtp.config.recipes": ("get_recipe",),
    "simvtp.errors": ("UserError",),
    "simvtp.library.export.export_model": ("push_to_hub",),
    "simvtp.library.export.export_run": ("export",),
    "simvtp.library.open_model": ("load",),
    "simvtp.library.prediction.open_predictor": ("load_predictor",),
    "simvtp.library.prediction.predicted_answers": ("Answer", "Prediction"),
    "simvtp.library.prediction.task_model": ("TaskModel",),
    "simvtp.library.run_experiment": ("run",),
    "simvtp.library.search_page": ("write_search_page",),
    "simvtp.library.search_picture": ("write_search_picture",),
    "simvtp.library.video_index": ("SearchHit", "VideoIndex", "load_index"),
    "simvtp.library.video_text_model": ("VideoTextModel",),
    "simvtp.methods.exported_model": ("from_pretrained", "save_pretrained"),
    "simvtp.models.mac.mac_model": ("MAC",),
    "simvtp.models.simvtp.simvtp_model": ("SimVTP",),
    "simvtp.runs.results": ("Result",),
    "simvtp.runs.rundir": ("load_experiment", "load_results"),
}

if not TYPE_CHECKING:  # a type checker sees the imports above, and reports other names

    def __getattr__(name: str) -> object:
        """Imports a name of `__all__` on its first use."""
        for module, names in _MODULES.items():
            if name in names:
                value = getattr(importlib.import_module(module), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'simvtp' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
