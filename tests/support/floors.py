"""Who imports whom in the package, and how long files and functions are, read from the source.

Nothing is imported: the source is parsed, so imports inside functions and under TYPE_CHECKING count
like any other.
"""

import ast
import graphlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

PACKAGE = "morse_engine"
TOP = f"{PACKAGE}/__init__"  # what the table of floors calls the public names


class Import(NamedTuple):
    """One import of one module of the package by another."""

    where: str  # file:line, from the root of the repository
    source: str  # the importing module
    target: str  # the imported one


class Function(NamedTuple):
    name: str
    line: int  # of its `def`
    length: int


def sources(folder: Path) -> list[Path]:
    """The Python files in `folder` and below; links are not followed."""
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.endswith(".py")
    )


def modules(root: Path) -> dict[str, Path]:
    """Name -> file of each module of the package; kernels/ is installed as morse_engine.kernels."""
    found = {}
    for folder, package in ((PACKAGE, PACKAGE), ("kernels", f"{PACKAGE}.kernels")):
        for path in sources(root / folder):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def imports(root: Path) -> Iterator[Import]:
    """Every import of the package by itself.

    `from a import b` is an import of the module a.b where there is one, else of a.
    """
    known = modules(root)
    known[f"{PACKAGE}._native"] = root / "csrc"  # the extension
    for source, path in known.items():
        if path.suffix != ".py":
            continue
        package = source if path.stem == "__init__" else source.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                named = [f"{base}.{name.name}" for name in node.names]
                targets = [name if name in known else base for name in named]
            else:
                continue
            where = f"{path.relative_to(root).as_posix()}:{node.lineno}"
            for target in dict.fromkeys(targets):
                if target.partition(".")[0] == PACKAGE:
                    assert target in known, f"{where}: there is no module {target}"
                    yield Import(where, source, target)


def room(module: str) -> str:
    """The folder that a module is in, as the table of floors calls it."""
    parts = module.split(".")
    if len(parts) == 1:
        return TOP
    return "csrc" if parts[1] == "_native" else parts[1]


def floors(document: str) -> dict[str, int]:
    """Room -> floor, from the table of docs/architecture.md: `| floor | rooms | ...`."""
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", document, flags=re.MULTILINE)
    return {
        name.removesuffix("/"): int(floor)
        for floor, cell in rows
        for name in re.findall(r"`([^`]+)`", cell)
    }


def not_downwards(found: Iterable[Import], floor: dict[str, int]) -> Iterator[str]:
    """One line for each import that does not lead to a lower floor or stay in its room."""
    for where, source, target in found:
        a, b = room(source), room(target)
        if a != b and floor[b] >= floor[a]:
            yield f"{where}: {a} (floor {floor[a]}) imports {b} (floor {floor[b]})"


def circle(found: Iterable[Import]) -> list[str]:
    """The lines of one circle of imports between files; empty if there is none."""
    where = {(source, target): line for line, source, target in found}
    graph: dict[str, set[str]] = {}
    for source, target in where:
        graph.setdefault(source, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        names = error.args[1][::-1]  # graphlib lists predecessors
        return [f"{where[pair]}: {pair[0]} imports {pair[1]}" for pair in itertools.pairwise(names)]
    return []


def functions(path: Path) -> Iterator[Function]:
    """Each function of a file; its length is from `def` to its end, without the docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The parameters of a Triton kernel are a line each, with the tensor's shape.
            kernel = any(getattr(d, "id", "") == "jit" for d in node.decorator_list)
            first = node.body[0].lineno if kernel else node.lineno
            length = node.end_lineno - first + 1
            if ast.get_docstring(node) is not None:
                length -= node.body[0].end_lineno - node.body[0].lineno + 1
            yield Function(node.name, node.lineno, length)
