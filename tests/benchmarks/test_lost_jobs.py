"""Jobs of the GPU benchmark that crash, hang, or are stopped: what they cost."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


class Losing:
    """A runner whose jobs give two rows and are lost in the middle of something."""

    def __init__(self, out, lost_in):
        self.out, self.lost_in, self.jobs = out, lost_in, []

    def run(self, job, seconds):
        import isolate

        self.jobs.append(job)
        yield {"about": dict.fromkeys(("commit", "date"))}
        for value in (1, 2):
            yield {"row": {"bench": "run_ms", "value": value}}
            assert json.loads(self.out.read_text())[-1]["value"] == value, "written at once"
        yield {"doing": self.lost_in}
        if len(self.jobs) == 1:
            raise isolate.Lost("stopped, it had taken 5 s")
        if len(self.jobs) == 3:
            raise KeyboardInterrupt
        yield {"doing": ""}

    def stop(self):
        self.jobs.append("stopped")


@pytest.mark.parametrize("lost_in", ["device", ""])
def test_a_job_that_is_lost_in_the_loop_takes_it_from_the_later_ones(tmp_path, capsys, lost_in):
    import gpu

    found = gpu.Found(tmp_path / "rows.json")
    runner = Losing(found.out, lost_in)
    jobs = [gpu.Job("loop", "tiny", batch, needs=0) for batch in (1, 2, 3, 4)]
    gpu.benchmark(jobs, runner, 1, found)
    *made, stopped = runner.jobs
    assert [job.no_device for job in made] == [False, *[lost_in == "device"] * 2]
    assert stopped == "stopped"
    assert len(json.loads(found.out.read_text())) == len(found.rows) == 6
    where = " in device" if lost_in else ""
    assert found.notes[0] == f"loop tiny batch 1: stopped, it had taken 5 s{where}"
    assert ("device: left out from here on" in found.notes) == bool(lost_in)
    assert found.notes[-1] == "interrupted: the jobs behind this are missing"


def test_no_wait_for_a_lost_process_is_without_a_bound():
    import multiprocessing.process

    import isolate

    class Stuck:
        """In a driver: not even a kill ends it."""

        pid, exitcode, waits = 2**22 + 7, None, []

        def kill(self):
            pass

        def join(self, timeout=None):
            self.waits.append(timeout)

    worker, stuck = isolate.Worker(print), Stuck()
    multiprocessing.process._children.add(stuck)
    pipe, _ = multiprocessing.Pipe()
    worker._process, worker._pipe = stuck, pipe
    worker.stop()
    assert len(stuck.waits) == 2
    assert all(seconds <= 10 for seconds in stuck.waits)
    assert stuck not in multiprocessing.process._children, "nor does the end wait for it"


SERVER = """
import os, sys, time

def do(job, emit):
    print("this goes elsewhere")
    emit({"pid": os.getpid(), "was": job})
    if job.get("crash"):
        os.abort()
    if job.get("hang"):
        import subprocess
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        emit({"child": child.pid})
        time.sleep(60)
"""


@pytest.mark.slow
def test_a_lost_process_costs_one_job(capfd, tmp_path, monkeypatch):
    import isolate

    (tmp_path / "isolated_jobs.py").write_text(SERVER)
    monkeypatch.syspath_prepend(str(tmp_path))
    import isolated_jobs

    worker = isolate.Worker(isolated_jobs.do)
    try:
        (first,) = worker.run({"job": 1}, 20)
        (second,) = worker.run({"job": 2}, 20)
        assert first["pid"] == second["pid"]
        assert second["was"] == {"job": 2}
        messages = worker.run({"crash": True}, 20)
        assert next(messages)["pid"] == first["pid"]
        with pytest.raises(isolate.Lost, match="ended with status -6"):
            next(messages)
        messages = worker.run({"hang": True}, 5)
        assert next(messages)["pid"] != first["pid"]
        started, child = time.monotonic(), next(messages)["child"]
        with pytest.raises(isolate.Lost, match="it had taken 5 s"):
            next(messages)
        assert time.monotonic() - started < 12
        assert ended(child)  # what it had started ends with it
        assert len(list(worker.run({"job": 3}, 20))) == 1
    finally:
        worker.stop()
    assert "this goes elsewhere" not in capfd.readouterr().out


ALONE = """
import sys
sys.path[:0] = {paths}
import isolate, isolated_jobs

if __name__ == "__main__":
    worker = isolate.Worker(isolated_jobs.do)
    for message in worker.run({{"hang": True}}, 60):
        print(*message.values(), flush=True)
"""


@pytest.mark.slow
def test_the_worker_ends_with_the_one_that_it_works_for(tmp_path):
    """Killed, as at a limit: a loop on the GPU would go on without it."""
    (tmp_path / "isolated_jobs.py").write_text(SERVER)
    script = tmp_path / "alone.py"
    script.write_text(ALONE.format(paths=[str(tmp_path), str(BENCHMARKS)]))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline().split()[0])
        process.stdout.readline()  # from here on it says nothing, so it would not notice
        process.kill()
    assert ended(worker)


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False
