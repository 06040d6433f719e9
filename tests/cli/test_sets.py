"""Sets of images: shares, files, settings, and runs of several processes that are killed."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from morse_engine import Plan, Refused
from morse_engine.cli import app as cli
from morse_engine.cli import sets
from morse_engine.cli.sets import Pngs, Tensors, agree, fill


def process(index: int, count: int):
    """What the code asks of accelerate's state, of one of several processes that do not wait."""
    return SimpleNamespace(
        process_index=index,
        num_processes=count,
        is_main_process=index == 0,
        wait_for_everyone=lambda: None,
    )


class FakeSampler:
    """An image is its seed and nothing else; counts what it is asked for."""

    plan = Plan("-.")

    def __init__(self, fail_after: int = 1000):
        self.asked, self.fail_after = [], fail_after

    def __call__(self, *, seed, on_step=None):
        if len(self.asked) == self.fail_after:
            raise KeyboardInterrupt
        self.asked.append(list(seed))
        if on_step is not None:
            for i in range(2):
                on_step(i, 2)
        return torch.stack([torch.full((1, 4, 4), number / 500 - 1) for number in seed])


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


kinds = pytest.mark.parametrize("kind", [Pngs, Tensors])


@kinds
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_set_is_the_same_whoever_makes_it(kind, count, tmp_path):
    """Chunks are interleaved, so that the parts of the set grow evenly; none is made twice."""
    alone, sampler = tmp_path / "alone", FakeSampler()
    alone.mkdir()
    assert fill(sampler, kind(alone), range(7, 30), batch_size=4) == 23
    together, asked = tmp_path / "together", []
    together.mkdir()
    for index in reversed(range(count)):  # the main process last: it writes the index
        share = FakeSampler()
        fill(
            share,
            kind(together),
            range(7, 30),
            batch_size=4,
            process=process(index, count),
        )
        asked += share.asked
    assert sorted(asked) == sampler.asked
    assert listing(together) == listing(alone)
    assert fill(FakeSampler(0), kind(alone), range(7, 30), batch_size=4) == 0


@kinds
def test_a_stopped_run_continues(kind, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "twice").mkdir()
    fill(FakeSampler(), kind(tmp_path / "whole"), range(20), batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        fill(FakeSampler(2), kind(tmp_path / "twice"), range(20), batch_size=4)
    assert not (tmp_path / "twice" / "index.json").exists()
    again, seen = FakeSampler(), []
    fill(again, kind(tmp_path / "twice"), range(20), batch_size=4, on_step=seen.append)
    assert again.asked == [list(range(i, i + 4)) for i in (8, 12, 16)]
    assert seen == [16] + [4] * 6  # two steps of eight images are there already
    assert listing(tmp_path / "twice") == listing(tmp_path / "whole")


def test_a_chunk_with_one_image_missing_is_the_same_batch(tmp_path):
    """An image depends on its batch in the last bit; those that are there are not touched."""
    fill(FakeSampler(), Pngs(tmp_path), range(8), batch_size=4)
    (tmp_path / "seed-0000006.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = FakeSampler()
    assert fill(again, Pngs(tmp_path), range(8), batch_size=4) == 4
    assert again.asked == [[4, 5, 6, 7]]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "seed-0000006.png").exists()


def test_a_set_can_grow(tmp_path):
    fill(FakeSampler(), Pngs(tmp_path), range(8), batch_size=4)
    more = FakeSampler()
    fill(more, Pngs(tmp_path), range(14), batch_size=4)
    assert more.asked == [[8, 9, 10, 11], [12, 13]]


def test_shards_and_their_index(tmp_path):
    seeds = range(100, 110)
    fill(FakeSampler(), Tensors(tmp_path), seeds, batch_size=4)
    index = json.loads((tmp_path / "index.json").read_text())["shards"]
    assert [row["count"] for row in index] == [4, 4, 2]
    rows = torch.cat([load_file(tmp_path / row["file"])["samples"] for row in index])
    assert rows.dtype == torch.float32
    assert torch.equal(rows, FakeSampler()(seed=seeds))


def test_what_a_killed_process_leaves_is_removed(tmp_path):
    """And nothing else: a file that another process still writes stays."""
    (tmp_path / ".seed-0000001.77.partial.png").write_bytes(b"half")
    (tmp_path / ".seed-0000099.77.partial.png").write_bytes(b"of another set")
    fill(FakeSampler(), Pngs(tmp_path), range(4), batch_size=4)
    names = {f"seed-{i:07d}.png" for i in range(4)}
    assert set(listing(tmp_path)) == {".seed-0000099.77.partial.png", *names}


# -- what is refused ---------------------------------------------------------------------------


def test_a_png_that_is_cut_off(tmp_path):
    fill(FakeSampler(), Pngs(tmp_path), range(8), batch_size=4)
    path = tmp_path / "seed-0000005.png"
    for content in (path.read_bytes()[:-3], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"seed-0000005.png is cut off: delete it"):
            fill(FakeSampler(0), Pngs(tmp_path), range(20), batch_size=4)


def test_a_shard_that_is_damaged(tmp_path):
    fill(FakeSampler(), Tensors(tmp_path), range(8), batch_size=4)
    path = tmp_path / "samples-0000004-0000007.safetensors"
    for content in (path.read_bytes()[:-3], path.read_bytes()[:5], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged .* delete it, it is made again"):
            fill(FakeSampler(0), Tensors(tmp_path), range(20), batch_size=4)
    save_file({"samples": torch.zeros(3, 1, 4, 4)}, path)
    with pytest.raises(ValueError, match="holds 3 samples in place of 4"):
        fill(FakeSampler(0), Tensors(tmp_path), range(8), batch_size=4)
    save_file({"images": torch.zeros(4, 1, 4, 4)}, path)
    with pytest.raises(ValueError, match="is damaged"):
        fill(FakeSampler(0), Tensors(tmp_path), range(8), batch_size=4)


def settle(folder, settings, index=0, plan=lambda: Plan("-.")):
    return agree(Pngs(folder), settings, process(index, 2), plan)


def test_settings(tmp_path):
    """The first process says how; the plan of a measured speed is that of the first run."""
    with pytest.raises(ValueError, match="use a shared folder"):
        settle(tmp_path, {"budget": 5.0}, index=1)
    assert settle(tmp_path, {"budget": 5.0}) == Plan("-.")
    for index in (0, 1):
        assert settle(tmp_path, {"budget": 5.0}, index, plan=None) == Plan("-.")
    with pytest.raises(ValueError, match=r"images with budget 5.0, these are with 6.0: choose"):
        settle(tmp_path, {"budget": 6.0})
    with pytest.raises(ValueError, match=r'images with plan "-\.", these are with "--"'):
        settle(tmp_path, {"budget": 5.0, "plan": "--"})
    for damaged in ("{", "[]", "{}", '{"plan": "x"}'):
        (tmp_path / "settings.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"settings.json is damaged"):
            settle(tmp_path, {"budget": 5.0})


def test_images_of_unknown_settings(tmp_path):
    (tmp_path / "seed-0000003.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"seed-0000003.png is there, but no settings.json"):
        settle(tmp_path, {})
    assert set(listing(tmp_path)) == {"seed-0000003.png"}


def test_one_gpu_for_several_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sets, "find_device", torch.device)
    with pytest.raises(ValueError, match="--device cuda:1 with 2 processes: use auto"):
        sets.join("cuda:1")


# -- several processes -------------------------------------------------------------------------

SET = ["sample", "--plan", "-.", "--num-images", "31", "--batch-size", "2", "--device", "cpu"]


def environment(**more) -> dict:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"} | more


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def start(out: Path) -> list[subprocess.Popen]:
    """Two processes, as a launcher starts them."""
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    world["MASTER_PORT"] = free_port()
    words = [sys.executable, "-m", "morse_engine.cli", *SET, "--out", str(out)]
    return [
        subprocess.Popen(
            words,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **world),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The set as `accelerate launch` makes it with two processes, undisturbed."""
    out = tmp_path_factory.mktemp("launched")
    words = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    words += ["--main_process_port", free_port(), "-m", "morse_engine.cli"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *words, *SET, "--out", str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout


@pytest.fixture
def one_thread():
    """As many as each of the launched processes has: the last bit depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_two_processes_make_the_images_of_one(launched, one_thread, tmp_path):
    """On the CPU, where --multi_gpu only says that there are several processes."""
    out, said = launched
    assert said.count("plan    ") == said.count("grid.png") == 1  # the main process alone
    assert "2 processes" in said
    assert cli.main([*SET, "--out", str(tmp_path)]) == 0
    assert len(listing(out)) == 31 + 2  # settings.json, grid.png
    assert listing(tmp_path) == listing(out)


@pytest.mark.slow
def test_killed_and_continued_is_the_uninterrupted_run(launched, one_thread, tmp_path):
    """kill -9 of both processes in the middle; then the same files, byte for byte."""
    killed = start(tmp_path)
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("seed-*.png"))) < 4:
        assert time.monotonic() < deadline
        assert not any(process.poll() for process in killed), killed[0].communicate()[0]
        time.sleep(0.005)
    for process in killed:
        process.kill()
    for process in killed:
        process.communicate()
    there = {p: p.stat().st_mtime_ns for p in tmp_path.glob("seed-*.png")}
    assert 4 <= len(there) < 31
    assert not (tmp_path / "grid.png").exists()

    assert cli.main([*SET, "--out", str(tmp_path)]) == 0  # by one process, too
    assert {p: p.stat().st_mtime_ns for p in there} == there  # none was made twice
    assert listing(tmp_path) == listing(launched[0])


def test_values_that_are_not_finite_are_not_written(tmp_path):
    x = torch.zeros(2, 4, 8, 8)
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(Refused, match="NaN or infinite"):
        sets.Tensors(tmp_path).write(range(2), x)
    assert not list(tmp_path.iterdir())
