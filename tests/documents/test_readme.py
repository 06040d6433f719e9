"""README and docs: their Python runs, their commands are valid, their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from documents import blocks
from morse_engine.cli import app as cli
from morse_engine.evaluation import page

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


DOCUMENTS = ["README.md", *(f"docs/{n}.md" for n in ("architecture", "embedding", "stacks"))]
DOCUMENTS += ["docs/training.md", "docs/tutorial.md", "docs/gpu.md"]


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "docs/embedding.md"])
def test_python_runs(document, tmp_path, monkeypatch, capsys):
    """All blocks in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    found, names = blocks("python", (ROOT / document).read_text()), {"__name__": "readme"}
    assert len(found) >= 2
    for number, source in enumerate(found):
        exec(compile(source, f"{document}, block {number}", "exec"), names)


def test_the_first_lines_are_those_of_the_page():
    assert blocks("python", TEXT)[0] == page.EIGHT_LINES
    assert page.EIGHT_LINES.count("\n") == 8


def test_commands_are_valid(monkeypatch):
    monkeypatch.setattr(cli, "_status", lambda stopped, command, options: 0)
    commands = [
        words
        for block in blocks("sh", TEXT)
        for line in block.replace("\\\n", " ").splitlines()
        if (words := shlex.split(line, comments=True)) and words[0] == "morse-engine"
    ]
    assert {words[1] for words in commands} >= {"demo", "sample", "train-dot", "evaluate", "doctor"}
    for words in commands:
        assert cli.main(words[1:]) == 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links(document):
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing


def test_plain_letters():
    """ASCII alone: no typographic dashes or quotes that a terminal or a search would miss."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        assert text.isascii(), [c for c in text if not c.isascii()][:5]
