"""Rules of the code, checked without importing it; `python -m tests.rules` lists offences.

Each rule is a generator of `Offence`s. tests/test_rules.py holds that there are none.
"""

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("simvtp", "ablations", "sweeps", "reports", "tests")

MAX_COLUMNS = 100
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_ENTRIES = 12

# These folders are lists (one file a benchmark, an ablation, a subject) or the top of the library.
LONG_FOLDERS = ("simvtp", "simvtp/data/benchmarks", "ablations")
REPEATED_FILES = ("__init__.py", "__main__.py", "conftest.py")
BAD_BEGINNINGS = re.compile(
    r"(What|Who|Whose|Whom|Whether|Where|How|Why|Which|When|As|The same)\b(?! is a )"
)
# Words that this project once used for something that the field has a word for.
PRIVATE_WORDS = re.compile(
    r"\b(beside|besides|anew|told|luck|shelf|shelves|stairs|mend|mends|mended|mending|unasked"
    r"|heard|gladly|patiently|standings|contestants?|rivals?|line_up)\b",
    re.IGNORECASE,
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Offence:
    """One place that breaks a rule."""

    rule: str
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


@dataclass(frozen=True)
class SourceFile:
    """A Python file of the project; `path` is relative to its root."""

    path: str
    source: str

    @cached_property
    def lines(self) -> list[str]:
        return self.source.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        tokens = tokenize.generate_tokens(io.StringIO(self.source).readline)
        return [(t.start[0], t.string) for t in tokens if t.type == tokenize.COMMENT]

    @property
    def is_test(self) -> bool:
        return self.path.startswith("tests/")


def source_files(root: Path = ROOT) -> list[SourceFile]:
    """Returns every Python file of the project, sorted by path."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return [SourceFile(str(path.relative_to(root)), path.read_text()) for path in paths]


def docstrings(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Yields line and text of each docstring."""
    for node in file.nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and node.body:
            first = node.body[0]
            text = ast.get_docstring(node)
            if text is not None:
                yield first.lineno, text


def long_lines(file: SourceFile) -> Iterator[Offence]:
    for number, line in enumerate(file.lines, 1):
        line = re.sub(r"\s+# (type: ignore|noqa).*$", "", line)
        if len(line) > MAX_COLUMNS:
            yield Offence("line", file.path, number, f"{len(line)} columns")


def long_files(file: SourceFile) -> Iterator[Offence]:
    if len(file.lines) > MAX_FILE_LINES:
        yield Offence("file", file.path, len(file.lines), f"{len(file.lines)} lines")


def long_functions(file: SourceFile) -> Iterator[Offence]:
    for node in file.nodes:
        if isinstance(node, FUNCTIONS):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield Offence("function", file.path, node.lineno, f"{node.name}: {length} lines")


def docstring_beginnings(file: SourceFile) -> Iterator[Offence]:
    for line, text in docstrings(file):
        if BAD_BEGINNINGS.match(text):
            yield Offence("docstring begins", file.path, line, text.splitlines()[0])


def docstring_summaries(file: SourceFile) -> Iterator[Offence]:
    """Checks that a summary is one line that ends a sentence, then a blank line."""
    for line, text in docstrings(file):
        summary, *rest = text.splitlines() or [""]
        if not summary.endswith((".", "!", "?", ".`")) or (rest and rest[0].strip()):
            yield Offence("docstring summary", file.path, line, summary)


def bare_excepts(file: SourceFile) -> Iterator[Offence]:
    for node in file.nodes:
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield Offence("bare except", file.path, node.lineno, "name what is caught")


def nested_comprehensions(file: SourceFile) -> Iterator[Offence]:
    """Finds a comprehension inside a comprehension that is an argument of a call."""
    seen = set()
    for call in file.nodes:
        if not isinstance(call, ast.Call):
            continue
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            outer = argument.value if isinstance(argument, ast.Starred) else argument
            if not isinstance(outer, COMPREHENSIONS) or outer.lineno in seen:
                continue
            if sum(isinstance(node, COMPREHENSIONS) for node in ast.walk(outer)) > 1:
                seen.add(outer.lineno)
                yield Offence("nested comprehension", file.path, outer.lineno, "give it a name")


def skipped_formatting(file: SourceFile) -> Iterator[Offence]:
    """Finds `fmt: skip` and `fmt: off` where the lines are no table of data."""
    tables = set()
    for node in file.nodes:
        if isinstance(node, ast.List | ast.Tuple | ast.Dict | ast.Set) and node.end_lineno:
            rows = node.values if isinstance(node, ast.Dict) else node.elts
            if len(rows) > 3:
                tables.update(range(node.lineno - 1, node.end_lineno + 2))
    for line, comment in file.comments:
        if re.search(r"fmt:\s*(skip|off)", comment) and line not in tables:
            yield Offence("fmt: skip", file.path, line, file.lines[line - 1].strip())


def private_words(file: SourceFile) -> Iterator[Offence]:
    """Finds words in docstrings, comments, messages and names that the field has a word for."""
    if file.path in ("tests/rules.py", "tests/test_rules.py"):
        return
    for number, line in enumerate(file.lines, 1):
        for word in PRIVATE_WORDS.findall(line.replace("_", " ")):
            yield Offence("word", file.path, number, f"{word!r}: {line.strip()[:80]}")


def repeated_classes(files: Sequence[SourceFile]) -> Iterator[Offence]:
    places = defaultdict(list)
    for file in files:
        for node in file.nodes:
            if isinstance(node, ast.ClassDef):
                places[node.name].append((file.path, node.lineno))
    for name, found in sorted(places.items()):
        for path, line in found if len(found) > 1 else ():
            yield Offence("class name", path, line, f"{name} is used {len(found)} times")


def repeated_files(files: Sequence[SourceFile]) -> Iterator[Offence]:
    """Finds file names that occur twice; a script of sweeps/ may bear its ablation's name.

    An ablation bears the name of what it varies, which may be that of a module.
    """
    paths = [Path(file.path) for file in files if not file.path.startswith("ablations/")]
    scripts = {path for path in paths if path.parent == Path("sweeps")}
    counted = [path for path in paths if path.name not in REPEATED_FILES and path not in scripts]
    counts = Counter(path.name for path in counted)
    for path in counted:
        if counts[path.name] > 1:
            yield Offence(
                "file name", str(path), 1, f"{path.name} occurs {counts[path.name]} times"
            )
    ablations = {Path(f.path).name for f in files if f.path.startswith("ablations/")}
    for path in sorted(scripts):
        if path.name in counts and path.name not in ablations:
            yield Offence("file name", str(path), 1, f"{path.name} occurs elsewhere")


def full_folders(files: Sequence[SourceFile]) -> Iterator[Offence]:
    entries = defaultdict(set)
    for file in files:
        path = Path(file.path)
        for parent in path.parents:
            child = path.relative_to(parent).parts[0]
            if not child.startswith("__"):
                entries[str(parent)].add(child)
    for folder, names in sorted(entries.items()):
        exempt = folder in (".", *LONG_FOLDERS) or folder.startswith("tests")
        if len(names) > MAX_ENTRIES and not exempt:
            yield Offence("folder", folder, 1, f"{len(names)} entries")


FILE_RULES: tuple[Callable[[SourceFile], Iterator[Offence]], ...] = (
    long_lines,
    long_files,
    long_functions,
    docstring_beginnings,
    docstring_summaries,
    bare_excepts,
    nested_comprehensions,
    skipped_formatting,
    private_words,
)
PROJECT_RULES: tuple[Callable[[Sequence[SourceFile]], Iterator[Offence]], ...] = (
    repeated_classes,
    repeated_files,
    full_folders,
)


def offences(files: Sequence[SourceFile]) -> list[Offence]:
    """Returns everything that breaks a rule, sorted by path and line."""
    found = [offence for rule in FILE_RULES for file in files for offence in rule(file)]
    found += [offence for rule in PROJECT_RULES for offence in rule(files)]
    return sorted(found, key=lambda offence: (offence.path, offence.line, offence.rule))


def main(paths: Sequence[str]) -> int:
    """Prints the offences below `paths` (all without one) and how many each rule has."""
    shown = [
        offence
        for offence in offences(source_files())
        if not paths or offence.path.startswith(tuple(paths))
    ]
    for offence in shown:
        print(offence)
    for rule, number in Counter(offence.rule for offence in shown).most_common():
        print(f"{number:5d} {rule}", file=sys.stderr)
    return 1 if shown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
