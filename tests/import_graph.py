"""Import graph of the project: which module imports which, late imports included."""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("simvtp", "ablations", "sweeps", "reports")

Graph = dict[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Returns the file of every module below `root`; a package stands for its `__init__.py`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def import_nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yields every import that can run, those inside functions included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for other in node.orelse:
                yield from import_nodes(ast.Module([other], []))
        else:
            yield from import_nodes(node)


def imported_names(path: Path) -> frozenset[str]:
    """Returns the dotted names that a file imports.

    Raises:
        AssertionError: An import is relative.
    """
    return names_in(path.read_text())


@functools.cache
def names_in(source: str) -> frozenset[str]:
    names: set[str] = set()
    for node in import_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
            continue
        assert node.level == 0, f"write absolute imports: {ast.unparse(node)}"
        names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


def import_graph(root: Path = ROOT) -> Graph:
    """Returns, for each module of the project, the modules of the project that it imports."""
    files = modules(root)
    graph: Graph = {}
    for module, path in files.items():
        graph[module] = set()
        for name in imported_names(path):
            target = name if name in files else name.rpartition(".")[0]
            if target in files and target != module:
                graph[module].add(target)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the groups of modules that import one another, each group sorted."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            fresh = graph.get(waiting.pop(), set()) - seen
            seen |= fresh
            waiting.extend(fresh)
        return seen

    reach = {module: reachable(module) for module in graph}
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach.get(other, set())))
        for module in graph
        if module in reach[module]
    }
    return [list(group) for group in sorted(groups)]


def inside(module: str, *packages: str) -> bool:
    """Returns True if a module is one of `packages` or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)
