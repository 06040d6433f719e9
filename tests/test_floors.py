"""The plan of the house: imports lead downwards, files and functions are short enough to be read.

The floors are those of the table in docs/architecture.md.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

import floors

ROOT = Path(__file__).parents[1]
FLOOR = floors.floors((ROOT / "docs/architecture.md").read_text())
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 350, 60


def assert_none(broken: Iterable[str]) -> None:
    """Nothing breaks the rule; `broken` are lines "file: ..."."""
    lines = list(broken)
    assert not lines, "\n".join(lines)


def python_files() -> dict[str, Path]:
    """What is read to learn how the project works: all Python files but the tests."""
    folders = ("morse_engine", "kernels", "benchmarks", "examples", "csrc")
    paths = [ROOT / "setup.py", *(p for f in folders for p in floors.sources(ROOT / f))]
    return {path.relative_to(ROOT).as_posix(): path for path in paths}


def test_every_room_has_a_floor():
    rooms = {floors.room(module) for module in floors.modules(ROOT)}
    assert rooms | {"csrc"} == FLOOR.keys()


def test_imports_lead_downwards():
    assert_none(floors.not_downwards(floors.imports(ROOT), FLOOR))


def test_no_circle_between_files():
    assert_none(floors.circle(floors.imports(ROOT)))


def test_no_long_file():
    lines = {name: len(path.read_text().splitlines()) for name, path in python_files().items()}
    assert_none(f"{name}: {n} lines" for name, n in lines.items() if n > LINES_OF_A_FILE)


def test_no_long_function():
    """From `def` to the end, without the docstring."""
    long = (
        f"{name}:{function.line}: {function.name}"
        for name, path in python_files().items()
        for function in floors.functions(path)
        if function.length > LINES_OF_A_FUNCTION
    )
    assert_none(long)


# The walker itself, on a made-up tree.

TABLE = """
| floor | rooms | what |
|---|---|---|
| 3 | `morse_engine/__init__` | names |
| 2 | `engine/` `kernels/` | two rooms |
| 1 | `sampling/` | the lowest but one |
| 0 | `csrc/` | the extension |
"""
TREE = {
    "morse_engine/__init__.py": "def __getattr__(name):\n    from .engine import run\n",
    "morse_engine/engine/__init__.py": "from .run import go",
    "morse_engine/engine/run.py": "from ..sampling import loop, plan\nfrom .. import _native",
    "morse_engine/sampling/__init__.py": "",
    "morse_engine/sampling/loop.py": "import torch\nfrom .plan import Plan",
    "morse_engine/sampling/plan.py": "class Plan:\n    pass",
    "kernels/__init__.py": "from morse_engine.sampling.plan import Plan",
}


def tree(root: Path, changed: dict[str, str]) -> list[floors.Import]:
    for name, text in {**TREE, **changed}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(floors.imports(root))


def test_a_sound_tree_passes(tmp_path):
    found = tree(tmp_path, {})
    assert len(found) == 7
    assert not list(floors.not_downwards(found, floors.floors(TABLE)))
    assert not floors.circle(found)


LOOP, RUN = "morse_engine/sampling/loop.py", "morse_engine/engine/run.py"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (LOOP, "\nfrom ..engine import run", "2: sampling (floor 1) imports engine (floor 2)"),
        (LOOP, "from ..engine.run import go", "1: sampling (floor 1) imports engine (floor 2)"),
        (LOOP, "import morse_engine.engine", "1: sampling (floor 1) imports engine (floor 2)"),
        (LOOP, "def f():\n  from .. import engine", "2: sampling (floor 1) imports engine (f"),
        (RUN, "from morse_engine import Plan", "1: engine (floor 2) imports morse_engine/__init__"),
        (RUN, "from .. import Plan", "1: engine (floor 2) imports morse_engine/__init__ (floor 3)"),
        (RUN, "from .. import kernels", "1: engine (floor 2) imports kernels (floor 2)"),
        ("kernels/__init__.py", "from ..engine import run", "1: kernels (floor 2) imports engine"),
    ],
)
def test_a_wrong_import_is_found(name, text, line, tmp_path):
    found = tree(tmp_path, {name: text})
    (wrong,) = floors.not_downwards(found, floors.floors(TABLE))
    assert wrong.startswith(f"{name}:{line}")


def test_a_circle_is_found(tmp_path):
    plan = {"morse_engine/sampling/plan.py": "def f():\n  from . import loop"}
    loop, plan = sorted(floors.circle(tree(tmp_path, plan)))
    sampling = "morse_engine.sampling"
    assert loop == f"morse_engine/sampling/loop.py:2: {sampling}.loop imports {sampling}.plan"
    assert plan == f"morse_engine/sampling/plan.py:2: {sampling}.plan imports {sampling}.loop"


def test_a_file_that_imports_what_its_room_passes_on_is_a_circle(tmp_path):
    found = tree(tmp_path, {"morse_engine/engine/run.py": "from . import go"})
    assert len(floors.circle(found)) == 2


def test_a_module_that_does_not_exist(tmp_path):
    with pytest.raises(AssertionError, match=r"loop\.py:1: there is no module morse_engine\.plans"):
        tree(tmp_path, {LOOP: "from ..plans import Plan"})


def test_a_rule_that_is_broken_fails():
    assert_none([])
    with pytest.raises(AssertionError, match=r"a\.py:3: x"):
        assert_none(iter(["a.py:3: x"]))


def test_the_parameters_of_a_kernel_are_not_counted(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("@jit\ndef f(\n    x_ptr,\n    n,\n):\n    a = 1\n    return a\n")
    assert list(floors.functions(path)) == [("f", 2, 2)]


def test_lines_of_functions(tmp_path):
    path = tmp_path / "a.py"
    lines = ["def f(", "    x,", "):", "    '''One.", "", "    Two.", "    '''", "    return x"]
    path.write_text("\n".join([*lines, "class A:", "    def g(self): ...", ""]))
    assert list(floors.functions(path)) == [("f", 1, 4), ("g", 10, 1)]
