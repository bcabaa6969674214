"""One cluster a session, stopped at its end; each test finds it healed and without jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablations.design import Point
from simvtp import experiment as real
from tests.slurm.cluster import HOME, Cluster, remove_leftovers
from tests.slurm.configuration import Settings
from tests.slurm.packages import prepare
from tests.slurm.user import User, elsewhere


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    """Yields the cluster; skips where there can be none.

    With SLURM_TESTS=required that is an error.
    """
    if reason := prepare():
        if os.environ.get("SLURM_TESTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    remove_leftovers()
    cluster = Cluster(HOME / f"tests-{os.getpid()}", Settings())
    try:
        cluster.start(owner=os.getpid())
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(whole_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, healthy and empty, and SLURM's commands pointed to it also in this process."""
    whole_cluster.heal()
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SLURMD_", "SBATCH_", "SUBMITIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(whole_cluster.configuration))
    before = whole_cluster.settings
    yield whole_cluster
    if whole_cluster.settings != before:
        whole_cluster.heal()
        whole_cluster.settings = before
        whole_cluster.change()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of the small experiment, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Point], Path]:
    """Returns a function that runs an experiment undisturbed in this process.

    It returns the run directory; each experiment runs once per session.
    """
    root = tmp_path_factory.mktemp("undisturbed")

    def reference(point: Point) -> Path:
        alone = elsewhere(point.experiment, root)
        real.run(alone, say=lambda text: None)  # does nothing where it has run before
        return alone.run_dir

    return reference


@pytest.fixture
def new_user(cluster: Cluster, tmp_path: Path, cache: Path) -> Iterator[Callable[..., User]]:
    """Returns a maker of users, each with an empty folder of runs: `new_user(seeds=(0, 1))`."""
    made: list[User] = []

    def make(root: Path | None = None, **values: object) -> User:
        root = root or tmp_path / f"runs-{len(made) + 1}"
        user = User(cluster, root, cache, **values)  # type: ignore[arg-type]
        made.append(user)
        return user

    yield make
    for user in made:
        user.leave()


@pytest.fixture
def user(new_user: Callable[..., User]) -> User:
    """One user whose sweep has one point."""
    return new_user()
