"""A bad value of any setting is refused in one sentence, or two steps of training really run."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simvtp.config.experiment_config import Experiment, from_dict
from simvtp.config.overrides import override
from simvtp.config.recipes import RECIPES, get_recipe
from simvtp.config.tree import flatten, to_dict
from simvtp.config.validation import check
from simvtp.config.validation.setting_ranges import range_of
from simvtp.errors import ConfigError
from tests.import_graph import ROOT
from tests.small import small_settings

BAD: dict[type, tuple[str, ...]] = {
    int: ("-2", "-1", "0", "2147483648", "1000000000000"),
    float: ("-1", "-0.5", "0", "1e-320", "1.5", "nan", "inf", "-inf", "1e308"),
    str: ("../x", "a b", "x" * 300, "\x1b[2J"),
}
RUN = 6  # of the accepted values, tried with two steps
MOST_BYTES = 24 * 2**30  # of address space
PROGRAM = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({bytes}, {bytes})); "
    "from simvtp.__main__ import main; sys.exit(main({words!r}))"
)


def settings(tmp_path: Path, cache: Path) -> list[str]:
    short = ("pretrain.max_steps=2", "finetune.train.max_steps=2", "runtime.examples=0")
    return small_settings(tmp_path, cache, *short)


def numbers(experiment: Experiment) -> Iterator[str]:
    for key, value in flatten(experiment).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_every_recipe_has_a_range_and_lies_in_it(name: str) -> None:
    recipe = get_recipe(name)
    values = flatten(recipe)
    for key in numbers(recipe):
        least, most = range_of(key)
        assert least <= values[key] <= most


def bad_values(base: Experiment) -> Iterator[str]:
    for key, value in flatten(base).items():
        yield from (f"{key}={bad}" for bad in BAD.get(type(value), ()))


def accepted(base: Experiment) -> list[str]:
    """Returns the assignments that `check` accepts; what it refuses is one sentence."""
    found = []
    for assignment in bad_values(base):
        try:
            check(override(base, [assignment]))
        except ConfigError as error:
            key = assignment.partition("=")[0].removesuffix(".name")
            assert key in str(error) and "\n" not in str(error), assignment
            assert str(error).endswith("."), assignment
        else:
            found.append(assignment)
    return found


def test_no_number_that_is_not_finite_or_beyond_its_range_is_accepted(
    tmp_path: Path, shapes_cache: Path
) -> None:
    base = override(get_recipe("tiny"), settings(tmp_path, shapes_cache))
    for assignment in accepted(base):
        key, _, text = assignment.partition("=")
        if key in set(numbers(base)):
            least, most = range_of(key)
            assert least <= float(text) <= most


@pytest.mark.slow
def test_accepted_values_train_or_end_in_one_sentence(tmp_path: Path, shapes_cache: Path) -> None:
    """Tries a sample of the accepted values, another one with each version of the settings."""
    words = ["run", "tiny", *settings(tmp_path / "runs", shapes_cache)]
    base = override(get_recipe("tiny"), words[2:])
    quick = [text for text in accepted(base) if not text.startswith(("runtime.root", "seed"))]
    for assignment in random.Random(base.fingerprint).sample(quick, RUN):
        program = PROGRAM.format(bytes=MOST_BYTES, words=[*words, assignment])
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert "Traceback" not in done.stderr, f"{assignment}\n{done.stderr[-2000:]}"
        assert done.returncode in (0, 2), f"{assignment}: {done.returncode}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize(("given", "value"), [("auto", "auto"), ("64", 64), ("0", 0)])
def test_a_setting_may_be_a_number_or_a_word(given: str, value: object) -> None:
    changed = override(get_recipe("tiny"), [f"runtime.micro_batch={given}"])
    check(changed)
    assert changed.runtime.micro_batch == value and from_dict(to_dict(changed)) == changed
    text = dataclasses.replace(changed.runtime, micro_batch="64")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be of type int"):
        check(dataclasses.replace(changed, runtime=text))


@pytest.mark.parametrize(("given", "fault"), [("-1", "at least 0"), ("many", "number, or auto")])
def test_another_word_or_number_is_refused(given: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"micro_batch={given}: must be .*{fault}"):
        check(override(get_recipe("tiny"), [f"runtime.micro_batch={given}"]))
