"""The GPU benchmark, tried out without a GPU: its rows, what fails in it, and what it is run on."""

import functools
import json
from pathlib import Path

import pytest
import torch

from morse_engine.system import timing

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GIVEN = dict.fromkeys(("gpu", "driver", "torch", "triton", "commit", "date"), "x")


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    in_turns = timing.in_turns
    two = lambda calls, device, rounds, untimed=0: in_turns(calls, device, rounds=2)  # noqa: E731
    monkeypatch.setattr(timing, "in_turns", two)  # enough to try the scripts out


@pytest.fixture
def one_thread():
    """Steps of microseconds are slower on several threads, much so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def main(out, *arguments: str) -> tuple[int, list[dict]]:
    import gpu

    status = gpu.main(["--device", "cpu", "--model", "tiny", "--out", str(out), *arguments])
    return status, json.loads(out.read_text())


@functools.cache
def without_weights(name: str):
    """A model of the paper as shapes alone, built once: that takes seconds."""
    from paper_models import MODELS

    return MODELS[name].build("meta", torch.float16)


@pytest.mark.slow
def test_models_are_the_published_ones():
    from paper_models import MODELS

    for model in MODELS.values():
        unet = without_weights(model.name)
        assert sum(p.numel() for p in unet.parameters()) == model.parameters, model.name
        cut = len(model.widths) - (model.text is not None)
        assert cut < len(unet.config.block_out_channels)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_conditioning_fits_the_model(name):
    from paper_models import MODELS

    model, unet = MODELS[name], without_weights(name)
    size = unet.config.sample_size
    x = torch.empty(2 * 3, 4, size, size, device="meta", dtype=torch.float16)
    t = torch.empty((), dtype=torch.int64, device="meta")
    assert unet(x, t, **model.cond(3, "meta", torch.float16)).sample.shape == x.shape


@pytest.mark.slow
def test_the_whole_script(tmp_path, capsys, one_thread):
    from rows import KEYS, UNITS

    status, rows = main(tmp_path / "new" / "rows.json", "--batch", "1")
    assert status == 0
    variants: dict[str, list[str]] = {}
    for row in rows:
        assert tuple(row) == KEYS
        assert (row["model"], row["batch"], row["unit"]) == ("tiny", 1, UNITS[row["bench"]])
        assert isinstance(row["value"], float)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] >= 2
        assert (row["gpu"], row["driver"], row["torch"]) == (None, None, torch.__version__)
        variants.setdefault(row["bench"], []).append(row["variant"])
    assert set(variants) == {"step_ms", "dot_speed", "run_ms", "start", "loop_overhead"}
    assert "Dash, eager, contiguous" in variants["step_ms"]
    lora = [f"Dot 8 {lora}, {kind}" for lora in ("merged", "shared") for kind in ("host", "eager")]
    assert variants["dot_speed"] == lora
    for bench in ("run_ms", "loop_overhead"):
        assert {v.split(", ")[0] for v in variants[bench]} == {"host", "eager", "diffusers"}
    printed = capsys.readouterr().out
    assert "captured steps need a CUDA GPU" in printed  # why "device" has no rows
    assert printed.splitlines()[-1].startswith(f"== {len(rows)} rows in ")


@pytest.fixture
def fake(fake, monkeypatch):
    import fake_capture

    fake_capture.install(monkeypatch, fake)
    return fake


@pytest.mark.slow
def test_captured_steps(tmp_path, capsys, fake, one_thread):
    _, rows = main(tmp_path / "rows.json", "--batch", "1")
    found = [(row["bench"], row["variant"].split(", ")[0]) for row in rows]
    ours = {"device (switch)", "host beside device", "host"}
    for bench in ("run_ms", "loop_overhead"):
        assert {name for b, name in found if b == bench} == {*ours, "eager", "diffusers"}
    assert {name for b, name in found if b == "start"} == ours
    for bench in ("capture_s", "capture_bytes"):
        assert [name for b, name in found if b == bench][-1].startswith("device (switch)")
    first = next(i for i, (_, name) in enumerate(found) if "device" in name)
    assert all("device" in name for _, name in found[first:]), "the others are out before it"
    assert "no rows from these" not in capsys.readouterr().out
    started = [row for row in rows if row["variant"].endswith("started run")]
    assert len(started) == 3


@pytest.mark.slow
def test_the_loop_can_be_left_out(tmp_path, fake, one_thread):
    _, rows = main(tmp_path / "rows.json", "--batch", "1", "--no-device")
    assert rows
    assert not [row for row in rows if "device" in row["variant"]]
    assert fake.calls("cuGraphInstantiateWithParams") == 0


@pytest.mark.slow
def test_a_loop_with_other_bits_is_not_timed(tmp_path, capsys, monkeypatch, fake, one_thread):
    from morse_engine.runtime.graphs import StepGraphs

    launch_loop = StepGraphs.launch_loop

    def wrong(self, until):
        launch_loop(self, until)
        self.steps.state.x.add_(1e-6)

    monkeypatch.setattr(StepGraphs, "launch_loop", wrong)
    _, rows = main(tmp_path / "rows.json", "--batch", "1")
    assert {row["variant"].split(", ")[0] for row in rows if row["bench"] == "run_ms"} == {
        *("host", "eager", "diffusers")
    }
    assert "CHECK: device (switch) made other bits than host" in capsys.readouterr().out


def test_layouts(fake):
    import layouts
    from rows import Out

    messages: list[dict] = []
    layouts.measure(Out(messages.append, "-", 1, "cpu"), torch.device("cpu"))
    kinds = [*(f"run of {n}" for n in layouts.NUM_STEPS), "per step", "fixed"]
    names = ("host", "unrolled", "two_ifs", "switch", "nested")
    expected = [f"{name}, {kind}" for name in names for kind in kinds]
    assert [m["row"]["variant"] for m in messages if "row" in m] == expected
    # Each layout's rows are out before the next one is begun.
    told = [m.get("doing", "row") for m in messages]
    assert told == ["row"] * 5 + ["device", *["row"] * 5, ""] * 4


def test_a_layout_that_hangs_costs_itself(fake, monkeypatch):
    import layouts
    from rows import Out

    build = layouts.SmallSteps.loop

    def hang(self, layout, plan):
        run, loop = build(self, layout, plan)
        return (lambda: fake.configure(deferred=True) or run()) if layout == "switch" else run, loop

    def within(loop, seconds):
        ended = loop.done()
        fake.configure(deferred=False)
        fake.run_pending()
        return ended

    monkeypatch.setattr(layouts.SmallSteps, "loop", hang)
    monkeypatch.setattr(layouts.native, "ends_within", within)
    messages: list[dict] = []
    layouts.measure(Out(messages.append, "-", 1, "cpu"), torch.device("cpu"))
    names = [m["row"]["variant"].split(", ")[0] for m in messages if "row" in m]
    assert list(dict.fromkeys(names)) == ["host", "unrolled", "two_ifs", "nested"]
    (note,) = [m["note"] for m in messages if "note" in m]
    assert 'layout "switch": TimeoutError: a run of 1 steps did not end within' in note


@pytest.mark.slow
def test_one_failure_does_not_lose_the_rest(tmp_path, capsys, monkeypatch, one_thread):
    import loop

    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.\nmore lines")

    monkeypatch.setattr(loop, "runs", fail)
    status, rows = main(tmp_path / "rows.json", "--batch", "1")
    assert status == 0
    assert {row["bench"] for row in rows} == {"step_ms", "dot_speed"}
    printed = capsys.readouterr().out
    assert "OutOfMemoryError: CUDA out of memory." in printed
    assert "more lines" not in printed


def test_rows_are_written_when_they_are_measured(tmp_path, capsys, monkeypatch):
    import gpu
    import loop

    out = tmp_path / "rows.json"
    seen = []

    def measure(job, model, batch, device):
        seen.append([row["value"] for row in json.loads(out.read_text())])
        job.row("run_ms", "quick", (batch, batch, batch, 1))
        if batch == 2:
            raise ValueError("no batch of two")

    jobs = [gpu.Job("loop", "tiny", batch, needs=0) for batch in (1, 2, 3)]
    jobs.append(gpu.Job("loop", "tiny", 4, needs=1000))
    monkeypatch.setattr(loop, "measure", measure)
    monkeypatch.setattr(gpu, "jobs_for", lambda *args: jobs)
    _, rows = main(out, "--minutes", "1", "--commit", "0123")
    assert seen == [[], [1.0], [1.0, 2.0]]
    assert [row["value"] for row in rows] == [1.0, 2.0, 3.0]
    printed = capsys.readouterr().out
    assert "tiny, batch 2: loop: ValueError: no batch of two" in printed
    skipped = printed[printed.index("== SKIPPED") :]
    assert "loop tiny batch 4 (" in skipped
    assert "1 notes, 1 skipped" in skipped


@pytest.mark.slow
def test_wrong_images_are_not_timed(tmp_path, capsys, monkeypatch, one_thread):
    from subject import Subject

    run = Subject.run
    monkeypatch.setattr(Subject, "run", lambda self, sampler: run(self, sampler) / 0)
    status, rows = main(tmp_path / "rows.json", "--batch", "1")
    assert status == 1
    assert rows == []
    assert "not finite: nothing is timed" in capsys.readouterr().out


def test_jobs():
    import gpu
    from paper_models import MODELS

    names = [name for name in MODELS if name != "tiny"]
    jobs = gpu.jobs_for("cuda", names, None, [1, 8])
    for bench in ("loop", "compiled"):
        pairs = [(job.model, job.batch) for job in jobs if job.bench == bench]
        assert len(pairs) == len(set(pairs)) == 2 * (len(names) - 1)  # CelebA-HQ is LSUN-Church
    assert [str(job) for job in gpu.jobs_for("cuda", ["sd"], ["loop"], [8])] == ["loop sd batch 8"]
    assert len(gpu.jobs_for("cuda", names, ["kernels"], [1])) == 1


def row(bench: str, variant: str, value: float, model: str = "cifar10", batch: int = 1) -> dict:
    known = {"bench": bench, "model": model, "variant": variant, "batch": batch, "unit": "u"}
    return known | {"value": value, "low": value, "high": value, "n": 5} | GIVEN


def test_missed_goals_are_named():
    import summary

    rows = [
        row("loop_overhead", "device, 8 Dash + 16 Dot, started run", 4.9),
        row("loop_overhead", "host, 8 Dash + 16 Dot, started run", 5.1),
        row("loop_overhead", "host, 8 Dash + 16 Dot", 40.0),
        row("start", "host, 8 Dash + 16 Dot", 149.0),
        row("start", "device, 8 Dash + 16 Dot", 151.0),
        row("loop_overhead", "diffusers, 24 Dash", 900.0),
        row("dot_speed", "host, Dot 32-64 shared", 7.0),
        row("dot_speed", "host, Dot 32-64 merged", 8.5),
        row("dot_speed", "host, Dot 32-64 merged", 3.0, batch=8),
        row("kernel_us", "dash_update, ours, within L2", 3.0, "3x32x32"),
        row("kernel_us", "dash_update, torch.compile, within L2", 2.0, "3x32x32"),
        row("kernel_us", "time_silu, ours, within L2", 2.0, "3x32x32"),
        row("kernel_us", "time_silu, torch.compile, within L2", 3.0, "3x32x32"),
        row("kernel_share", "dash_update, ours, within L2", 0.1, "3x32x32"),
        row("kernel_share", "time_silu, ours, exceeds L2", 0.8, "3x256x256", 64),
        row("kernel_share", "dash_update, ours, exceeds L2", 0.9, "3x256x256", 64),
    ]
    lines = summary.missed(rows)
    assert [line.split(", ")[0] for line in lines[:3]] == ["overhead", "start", "N"]
    assert "host, 8 Dash + 16 Dot, started run: 5.1 " in lines[0]
    assert "device, 8 Dash + 16 Dot: 151 (151 .. 151) us, goal 150" in lines[1]
    assert "batch 8" in lines[2]
    assert lines[3:] == [
        "dash_update is slower than torch.compile: 3x32x32, batch 1 3.0 us to 2.0",
        "time_silu is below 85 % of a copy: 3x256x256, batch 64 80 %",
    ]
    assert summary.missed([row | {"gpu": None} for row in rows]) == []
    text = summary.text(rows, [], [], "rows.json").splitlines()
    assert text[-1] == "== 16 rows in rows.json; 5 goals missed, 0 notes, 0 skipped"
