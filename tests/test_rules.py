"""The rules of the code hold in every file, and each rule finds a planted offence."""

import pytest

from tests.rules import SourceFile, offences, source_files

# Files that do not keep every rule yet, each with its reason in words.
NOT_YET: tuple[str, ...] = ()


def rules_broken(source: str, *others: SourceFile, path: str = "simvtp/some/file.py") -> set[str]:
    return {offence.rule for offence in offences([SourceFile(path, source), *others])}


def test_the_code_keeps_the_rules() -> None:
    found = [o for o in offences(source_files()) if o.path not in NOT_YET]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        ("line", f"x = '{'x' * 100}'"),
        ("file", "x = 1\n" * 401),
        ("function", "def f():\n" + "    x = 1\n" * 60),
        ("docstring begins", '"""What a file holds."""'),
        ("docstring begins", 'class A:\n    """Where it lies."""'),
        ("docstring begins", 'def f():\n    """The same for images."""'),
        ("docstring summary", '"""Returns a mask\nof the tubes."""'),
        ("docstring summary", '"""Returns a mask"""'),
        ("bare except", "try:\n    x = 1\nexcept:\n    pass"),
        ("nested comprehension", "f(a for b in [c for c in d])"),
        ("nested comprehension", "f(*[[x for x in row] for row in rows])"),
        ("fmt: skip", "x = f(1,  2)  # fmt: skip"),
        ("word", "# The reader is told."),
        ("word", "def _held_beside(): ..."),
    ],
)
def test_an_offence_is_found(rule: str, source: str) -> None:
    assert rules_broken(source) == {rule}


@pytest.mark.parametrize(
    "source",
    [
        '"""Returns a mask.\n\nArgs:\n    x: What is masked.\n"""',
        "x = [[y for y in row] for row in rows]",
        "f(sorted(x for x in y), [z for z in y])",
        "X = (  # fmt: skip\n    (1,  2),\n    (10, 3),\n    (4,  5),\n    (6,  7),\n)",
        "try:\n    x = 1\nexcept OSError:\n    pass",
    ],
)
def test_clean_code_passes(source: str) -> None:
    assert not rules_broken(source)


def test_a_class_name_and_a_file_name_are_used_once() -> None:
    other = SourceFile("reports/other/file.py", "class Run: ...")
    assert rules_broken("class Run: ...", other) == {"class name", "file name"}


def test_a_script_of_sweeps_may_bear_the_name_of_its_ablation() -> None:
    ablation = SourceFile("ablations/losses.py", "")
    assert not rules_broken("", ablation, path="sweeps/losses.py")
    assert rules_broken("", SourceFile("reports/x/losses.py", ""), path="sweeps/losses.py")


def test_a_folder_has_at_most_twelve_entries() -> None:
    files = [SourceFile(f"simvtp/models/part_{i}.py", "") for i in range(13)]
    assert rules_broken("", *files) == {"folder"}
    assert not rules_broken("", *files[:-1])
