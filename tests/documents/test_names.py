"""What the documents name is there: files, folders, and names of the package."""

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

import floors

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"]
DOCUMENTS += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
SOURCE = r"`([\w./]+/[\w.]+\.(?:py|h|cu|cpp|md))\b"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files(document):
    """`sampling/loop.py` is one of the package, of the repository, or beside the document; name.py
    stands for any."""
    places = (ROOT, ROOT / "morse_engine", (ROOT / document).parent)
    named = set(re.findall(SOURCE, (ROOT / document).read_text()))
    missing = [name for name in named if not any((place / name).is_file() for place in places)]
    assert not [name for name in missing if not name.endswith(("/name.py", "/test_name.py"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_of_the_package(document):
    text = (ROOT / document).read_text()
    for name in set(re.findall(r"(?:`|^::: )(morse_engine(?:\.\w+)+)", text, flags=re.MULTILINE)):
        resolve_name(name)  # raises where there is no such name


def test_the_tree():
    """The drawing has every room, and only those."""
    text = (ROOT / "docs/architecture.md").read_text()
    tree = re.search(r"^## The tree\n(.*?)^## ", text, flags=re.MULTILINE | re.DOTALL)[1]
    drawn = re.findall(r"^ {4,6}(\w+)/ ", tree, flags=re.MULTILINE)
    rooms = floors.floors(text).keys() - {floors.TOP}
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == rooms | {"tests", "benchmarks", "examples", "docs"}
    assert all((ROOT / name).is_dir() or (ROOT / "morse_engine" / name).is_dir() for name in drawn)
