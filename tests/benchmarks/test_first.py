"""`make gpu-first` and its kin without a GPU: parts that fail, hang or die, and what they leave."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def python(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


CHILD = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
DEAF = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{CHILD}\n"


def test_no_part_stops_the_next(tmp_path, capsys, monkeypatch):
    import parts
    from parts import Part

    monkeypatch.setattr(parts, "GRACE_S", 0.5)
    monkeypatch.setenv("FROM", "outside")
    hang = "import time; time.sleep(600)"
    say = "import os; print(os.environ['FROM'], os.environ['MINE'])"
    some = [
        Part("good", 9, python(say), "it goes", env={"MINE": "own"}),
        Part("bad", 9, python("print('why'); raise SystemExit(3)")),
        Part("hangs", 1, python(hang)),
        Part("deaf", 2, python(DEAF + hang)),
        Part("shot", 9, python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")),
        Part("missing", 9, ("no-such-program",)),
        Part("empty", 9, python("raise SystemExit(5)")),
        Part("last", 9, python("print('here')")),
    ]  # fmt: skip
    begun = time.monotonic()
    done = parts.run(some, tmp_path / "new" / "logs", 90)
    assert time.monotonic() - begun < 30
    assert [each.status for each in done] == [
        *("passed", "FAILED (3)", "STOPPED at limit", "STOPPED at limit", "KILLED by SIGKILL"),
        *("FAILED to start", "no tests", "passed"),
    ]
    logs = sorted(path.name for path in (tmp_path / "new" / "logs").glob("*.log"))
    assert logs == [f"{i:02}-{part.name}.log" for i, part in enumerate(some, 1)]
    read = [(tmp_path / "new" / "logs" / name).read_text() for name in logs]
    assert "outside own" in read[0]
    assert "KeyboardInterrupt" in read[2], "interrupted first, so that it can say where it was"
    assert gone(int(read[3].split("\n")[-2])), "what a part started ends with it"
    table = (tmp_path / "new" / "logs" / "parts.txt").read_text().splitlines()
    assert [line.split()[0] for line in table] == [part.name for part in some]
    assert re.fullmatch(r"good +passed +\d+ s   it goes", table[0])
    printed = capsys.readouterr().out
    assert "    | why\n" in printed, "the end of a log where a part did not pass"
    assert "    | here\n" not in printed


def gone(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def test_the_table_is_there_while_a_part_runs(tmp_path):
    import parts
    from parts import Part

    seen = "import pathlib; print(pathlib.Path('parts.txt').read_text())"
    look = f"import os; os.chdir({str(tmp_path)!r}); {seen}"
    parts.run([Part("first", 9, python("")), Part("second", 9, python(look))], tmp_path, 30)
    assert "first        passed" in (tmp_path / "02-second.log").read_text()


def test_time_is_kept_for_later_parts(tmp_path, monkeypatch):
    import parts
    from parts import Part

    now, limits = [0.0], {}
    monkeypatch.setattr(parts.time, "monotonic", lambda: now[0])

    def one(part, log, limit):
        log.write_text("")
        limits[part.name] = limit
        now[0] += {"quick": 1, "hangs": limit + parts.GRACE_S}[part.name.split()[0]]
        return "passed"

    monkeypatch.setattr(parts, "one", one)
    some = [
        Part(name, 20, (), most=most)
        for name, most in (("quick", 0), ("hangs", 80), ("hangs 2", 0))
    ]
    done = parts.run(some, tmp_path, 100)
    # 99 s are left, of which 25 belong to the last.
    assert limits == {"quick": 20, "hangs": 69, "hangs 2": 20}
    assert now[0] == 100
    done = parts.run([*some, Part("late", 20, ())], tmp_path, 55)
    assert done[-1].status == "no time left"
    assert limits["hangs 2"] == 20


def test_an_interrupt_ends_all(tmp_path, monkeypatch):
    import parts
    from parts import Part

    wait = subprocess.Popen.wait

    def interrupted(process, timeout=None):
        if timeout == 7:
            raise KeyboardInterrupt
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    some = [Part("one", 7, python("import time; time.sleep(600)")), Part("two", 9, python(""))]
    (done,) = parts.run(some, tmp_path, 60)
    assert done.status == "interrupted"
    assert "one          interrupted" in (tmp_path / "parts.txt").read_text()


def test_pytest_says_what_it_has_at_its_limit(tmp_path):
    import parts
    from parts import Part

    file = tmp_path / "test_some.py"
    file.write_text(
        "import time\ndef test_bad(): assert 'found' == 'wanted'\n"
        "def test_hangs(): time.sleep(600)\n"
    )
    command = (sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(file))
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # it begins sooner, on a busy machine too
    (done,) = parts.run([Part("tests", 12, command, env=alone)], tmp_path, 60)
    assert done.status == "STOPPED at limit"
    log = (tmp_path / "01-tests.log").read_text()
    assert "AssertionError: assert 'found' == 'wanted'" in log
    assert "1 failed" in log


@pytest.mark.parametrize("target", ["first", "gpu", "smoke"], ids="of {}".format)
def test_the_parts(target, monkeypatch):
    import first
    import parts

    some = first.parts_of(target, Path("rows.json"), 4.5, "0123")
    names = [part.name for part in some]
    assert sum(part.limit + parts.GRACE_S for part in some) <= first.SECONDS[target] <= 600
    assert len(set(names)) == len(names)
    assert names[:4] == ["warm-up", "facts", "install", "driver"]
    assert names[4:8] == ["unrolled", "two_ifs", "switch", "nested"], "what is surer comes first"
    if target != "smoke":
        assert names[-1] == "refused", "a failed capture may leave torch damaged"
        assert names.index("graphs") < names.index("benchmark")
        (command,) = [part.command for part in some if part.name == "benchmark"]
        assert {"rows.json", "{minutes}", "0123"} <= set(command)
    for part in some:
        assert part.command[0] == sys.executable
        for word in part.command[1:]:
            if word.endswith(".py"):
                assert (ROOT / word).is_file(), word
    monkeypatch.setattr(first, "find_spec", lambda name: name == "pytest_timeout")
    assert "--timeout" not in first.tests(), "both plugins or none"
    monkeypatch.setattr(first, "find_spec", lambda name: True)
    assert {"-v", "-n", "--timeout"} <= set(first.tests())


@pytest.mark.parametrize(
    ("good", "left"),
    [
        ({"switch"}, {}),
        ({"two_ifs", "unrolled"}, {"MORSE_ENGINE_LAYOUT": "two_ifs"}),
        ({"unrolled", "nested"}, {"MORSE_ENGINE_LAYOUT": "unrolled"}),
        (set(), {"MORSE_ENGINE_LAYOUT": "none"}),
    ],
)
def test_a_layout_that_failed_is_left_out_behind(tmp_path, good, left):
    import first
    import parts
    from parts import Part

    some = [
        Part(name, 9, python(f"raise SystemExit({int(name not in good)})"))
        for name in first.LAYOUTS
    ]
    seen = "import os; print('layout', os.environ.get('MORSE_ENGINE_LAYOUT'))"
    parts.run([*some, Part("behind", 9, python(seen))], tmp_path, 60, first.learned)
    for i, name in enumerate(first.LAYOUTS, 1):
        assert "MORSE_ENGINE_LAYOUT" not in (tmp_path / f"{i:02}-{name}.log").read_text()
    said = (tmp_path / "05-behind.log").read_text()
    assert f"\nlayout {left.get('MORSE_ENGINE_LAYOUT')}\n" in said


# An interpreter that does what a part wants, or something else.
FAKE = """#!/bin/sh
case "$*" in
    "benchmarks/first.py "*) exec {python} -c '
import runpy, sys
sys.executable = "{fake}"
sys.path.insert(0, "benchmarks")
sys.argv = sys.argv[1:]
runpy.run_path("benchmarks/first.py", run_name="__main__")' "$@" ;;
    *install.py*) echo "no pip"; exit 1 ;;
    *"-k switch"*) echo "begun"; exec sleep 600 ;;
    *"probes.py race"*) kill -9 $$ ;;
    *gpu.py*) echo "$PYTHONPATH" "$@" ;;
esac
"""


@pytest.mark.slow
def test_make_gpu_first(tmp_path):
    fake, out = tmp_path / "python", tmp_path / "out"
    fake.write_text(FAKE.format(python=sys.executable, fake=fake))
    fake.chmod(0o755)
    command = ["make", "-s", "gpu-first", f"GPU_PYTHON={fake}", f"GPU_OUT={out}", "COMMIT=0123"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0, "not all passed"
    lines = (out / "parts.txt").read_text().splitlines()
    assert done.stdout.endswith("\n".join(lines) + f"\nlogs: {out}\n")
    other = {line.split()[0]: line for line in lines if " passed " not in line}
    assert other.keys() == {"install", "switch", "race"}
    assert "FAILED (1)" in other["install"]
    assert "STOPPED at limit" in other["switch"]
    assert "KILLED by SIGKILL" in other["race"]
    assert len(lines) == len(list(out.glob("*.log"))) == 19
    (log,) = out.glob("*-benchmark.log")
    said = log.read_text()
    assert f"{ROOT}" in said
    assert f"--out {out}/gpu.json" in said
    assert "MORSE_ENGINE_LAYOUT=two_ifs" in said, "the switch layout was stopped"
    assert "--commit 0123" in said
    minutes = float(re.search(r"--minutes (\S+)", said)[1])
    assert 5 < minutes < 7, "what the others left"


class Commands:
    """Answers instead of running."""

    def __init__(self, **answers: bool):
        self.answers, self.made = answers, []

    def __call__(self, *words: str, **env: str) -> bool:
        kinds = ("show", "install", "--build", "cmake")
        kind = next((kind for kind in kinds if kind in words), "_native")
        self.made.append(kind)
        answer = self.answers.get(kind.strip("-"), True)
        return answer.pop(0) if isinstance(answer, list) else answer


@pytest.mark.parametrize("works", [[True], [False, True], [False, False]])
def test_an_installation_without_pip(tmp_path, monkeypatch, works):
    import install

    for folder in ("morse_engine", "kernels", "csrc"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setitem(sys.modules, "pybind11", type("Module", (), {"get_cmake_dir": lambda: "x"}))
    commands = Commands(install=True, _native=list(works))
    monkeypatch.setattr(install, "command", commands)
    assert install.main() == int(not works[-1])
    by_hand = ["cmake", "--build", "_native"] if len(works) == 2 else []
    assert commands.made == ["show", "install", "_native", *by_hand]
    for name in ("kernels", "csrc"):
        link = tmp_path / "morse_engine" / name
        assert link.exists() == bool(by_hand)
        assert not by_hand or link.resolve() == tmp_path / name
    if works == [False, True]:
        commands = Commands(install=False, cmake=False, _native=False)
        monkeypatch.setattr(install, "command", commands)
        assert install.main() == 1, "the links are there already; no compiler is no end"
        assert commands.made == ["show", "install", "cmake", "_native"]
