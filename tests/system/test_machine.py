"""What the machine says of itself, and of a checkout."""

import re
import subprocess
from importlib import metadata

import morse_engine
from morse_engine.system import machine as machines


def test_machine(monkeypatch):
    found = machines.machine()
    assert list(found)[:4] == ["cpu", "threads", "gpu", "driver"]
    assert found["morse_engine"] == metadata.version("morse-engine") == morse_engine.__version__
    assert found["diffusers"] == metadata.version("diffusers")
    assert machines._version("no-package-has-this-name") is None
    monkeypatch.setattr(machines.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machines.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(machines, "_output", lambda *command: "570.1\n570.1")
    assert (machines.machine()["gpu"], machines.machine()["driver"]) == ("a GPU", "570.1")


def test_commit(tmp_path):
    assert machines.commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        (tmp_path / "file").write_text("one")
        subprocess.run([*git, *words], check=True, capture_output=True)
    clean = machines.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "new").write_text("not tracked")
    assert machines.commit(tmp_path) == clean
    (tmp_path / "file").write_text("two")
    assert machines.commit(tmp_path) == f"{clean}+changes"


def test_a_command_that_is_not_there_says_nothing():
    assert machines._output("no-command-has-this-name") == ""


def test_now():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", machines.now())
