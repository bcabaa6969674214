"""An experiment by the name of a recipe, by a file of settings, or by a run directory."""

from __future__ import annotations

from pathlib import Path

from simvtp.config.experiment_config import Experiment
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.errors import ConfigError
from simvtp.runs.rundir import IDENTITY_FILE, load_experiment
from simvtp.sources.settings_file import read_experiment
from simvtp.sources.yaml_file import ENDINGS


def experiment_of(source: str) -> Experiment:
    """Returns the experiment that a text names.

    Args:
        source: a recipe; a file that ends in .yaml or .yml (see `settings_file`); or a run
            directory, whose experiment has its root where the directory lies now.

    Raises:
        ConfigError: it is none of them, or the file is wrong.
        UserError: the run directory is of another version or damaged.
    """
    return _experiment(source, Path(), ())


def _experiment(source: str, folder: Path, above: tuple[Path, ...]) -> Experiment:
    """Returns the experiment of a source that is named in a file of `folder`.

    `above` are the files that led here.
    """
    if source in RECIPES:
        return get_recipe(source)
    path = folder / Path(source).expanduser()
    if path.suffix in ENDINGS:
        if path.resolve() in above:
            raise ConfigError(f"{path} is its own base: name a recipe or a run in one of them.")
        files = (*above, path.resolve())
        return read_experiment(path, lambda base: _experiment(base, path.parent, files))
    if (path / IDENTITY_FILE).is_file():
        return load_experiment(path)
    if path.is_dir():
        raise ConfigError(f"{path} is not a run directory: it has no {IDENTITY_FILE}.")
    raise ConfigError(
        f"there is no recipe '{source}': choose from {', '.join(RECIPES)}; or give a file "
        f"({' or '.join(ENDINGS)}) or a run directory."
    )
