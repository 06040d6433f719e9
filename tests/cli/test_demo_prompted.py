"""The demo of the miniature, small, with a Dot that has learnt nothing."""

import base64
import html
import io
import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from commands import run
from morse_engine import Dot, zoo
from morse_engine.cli import demo_models, demo_prompted
from morse_engine.evaluation import near_verdict
from morse_engine.evaluation.nearness import Near
from morse_engine.evaluation.verdict import DASH, MORSE, RIVAL
from morse_engine.sampling import noise, schedulers
from morse_engine.sampling.plan import Plan
from morse_engine.zoo.miniature import captions

pytestmark = pytest.mark.slow  # the demo is run once for all of them

FILES = {"index.html", "nearness.png", "rows.json", "side_by_side.png"}
SMALL = {
    "images": 8,
    "budgets": (2,),
    "steps": (2, 4),
    "full_steps": 5,
    "pictured": (0, 5, 13),  # there are not so many as the last
    "pictured_budget": 3,
    "batch_size": 8,
    "device_name": "cpu",
}


def untrained(unet) -> Dot:
    torch.manual_seed(0)
    scheduler = zoo.miniature_pipeline().scheduler
    return Dot(unet, scheduler, widths=(16, 32), cut=2, guided=True)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """(the folder, what was printed) of one small run."""
    out, text = tmp_path_factory.mktemp("demo") / "new" / "folder", io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "miniature_dot", untrained)
        path = demo_prompted.run_demo(out, console=Console(file=text, width=100), **SMALL)
    assert path == out / "index.html"
    return out, text.getvalue()


def rows(out, bench: str) -> list[dict]:
    return [row for row in json.loads((out / "rows.json").read_text()) if row["bench"] == bench]


def test_files(result):
    out, _ = result
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("nearness.png", "side_by_side.png"):
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 300


def test_rows(result):
    out, _ = result
    points = rows(out, "nearness")
    found = {(row["variant"], row["budget_lsd"], row["batch_size"]) for row in points}
    # 3, the budget that is pictured, was added to the steps and to the budgets
    assert found == {
        *(("dash only", n, 8) for n in (2, 3, 4)),
        *(("free steps", n, 8) for n in (2, 3)),
        *(("morse", n, size) for n in (2, 3) for size in (1, 8)),
    }
    for row in points:
        plan = Plan(row["plan"])
        assert row["cost_lsd"] <= row["budget_lsd"]
        assert row["images"] == 8
        assert row["unit"] == "distance to the full run"
        for name in ("rms", "unlike", "prompt_score"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["rms"] > 0
        if row["variant"] == "morse":
            assert row["cost_lsd"] == pytest.approx(plan.lsd(row["dot_speed"]))
    gains = rows(out, "nearness speed-up")
    assert {row["batch_size"] for row in gains} == {1, 8}


def test_pictures_are_those_of_the_pipeline(result):
    """All steps, and three, of the seeds that are shown, from the latents of the experiment."""
    out, _ = result
    pipe = zoo.miniature_pipeline()
    pipe.scheduler = schedulers.make("ddim", pipe.scheduler.config)
    prompts = [captions.coarse()[seed] for seed in (0, 5)]
    latents = noise.normal([0, 5], noise.INITIAL, (4, 16, 16))
    found = shown(out)
    assert len(found) == 2 * (4 + 3) + 1  # four methods, three differences, and the plot
    for steps, place in ((5, 0), (3, 1)):
        words = {"guidance_scale": 3.0, "output_type": "np", "num_inference_steps": steps}
        expected = pipe(prompts, latents=latents, **words).images * 255
        for k in (0, 1):
            assert np.abs(found[7 * k + place] - expected[k]).max() < 1.5
    text = (out / "index.html").read_text()
    assert all(f"&#34;{prompt}&#34;" in text or f'"{prompt}"' in text for prompt in prompts)


def shown(out) -> list[np.ndarray]:
    """The pictures of the page."""
    files = re.findall(r'src="data:image/png;base64,([^"]*)"', (out / "index.html").read_text())
    return [
        np.array(Image.open(io.BytesIO(base64.b64decode(file)))).astype(float) for file in files
    ]


def test_page_needs_nothing_else(result):
    text = (result[0] / "index.html").read_text()
    sources = re.findall(r'(?:src|srcset|poster|data)="([^"]*)"', text)
    assert {source[:22] for source in sources} == {"data:image/png;base64,"}
    assert not re.search(r"<script|<link|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_page_and_terminal_say_where_morse_stands(result):
    out, printed = result
    text, printed = (out / "index.html").read_text(), " ".join(printed.split())
    for said in ("free steps alone, without a Dot,", "At batch 8, where", "At batch 1, where"):
        assert said in text
        assert said in printed
    assert ("Beside free steps Morse is" in text) != ("so Morse has none here." in text)
    for row in rows(out, "nearness"):
        assert f"<td>{row['plan']}</td>" in text
        interval = row["rms"], row["rms_low"], row["rms_high"]
        assert f"<td>{near_verdict.shown(near_verdict.Interval(*interval))}</td>" in text


def test_the_lines_of_the_page_run(monkeypatch):
    monkeypatch.setattr(zoo, "miniature_dot", untrained)
    names: dict = {}
    exec(compile(demo_models.PIPELINE_LINES, "page", "exec"), names)
    assert names["picture"].size == (64, 64)
    assert type(names["pipe"]).__mro__[1].__name__ != "StableDiffusionPipeline", "restored"
    assert demo_models.PIPELINE_LINES.count("\n") == 8


# -- what can go wrong -------------------------------------------------------------------------


@pytest.fixture
def no_work(monkeypatch):
    """Fails where a model is loaded."""
    monkeypatch.setattr(zoo, "miniature_pipeline", lambda: pytest.fail("work before the check"))


def test_wrong_numbers(tmp_path, no_work):
    for images, pictured in ((8, (8,)), (8, ()), (7, (0,))):
        with pytest.raises(ValueError, match=re.escape(f"images={images}, pictured={pictured}")):
            demo_prompted.run_demo(tmp_path, images=images, pictured=pictured)


def test_without_transformers(tmp_path, no_work, monkeypatch, fails):
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = fails("demo", "--out", tmp_path)
    assert "pip install 'morse-engine[demo]'" in said
    assert "--model digits" in said


def test_the_command_hands_on_what_it_is_given(tmp_path, monkeypatch):
    from morse_engine.cli import demo

    given: list[tuple] = []
    for name, module in (("digits", demo), ("miniature", demo_prompted)):
        monkeypatch.setattr(module, "run_demo", lambda *a, name=name, **k: given.append((name, k)))
    assert run("demo", "--out", tmp_path) == 0
    assert run("demo", "--model", "digits", "--images", 70, "--seed", 3) == 0
    assert given == [
        ("miniature", {"seed": 0, "device_name": "auto", "images": 96}),
        ("digits", {"seed": 3, "device_name": "auto", "images": 70}),
    ]


def test_methods_with_one_plan_are_shown_once():
    def near(variant, plan):
        row = {"variant": variant, "plan": plan, "budget_lsd": 5, "batch_size": 16, "cost_lsd": 5.0}
        return Near(row, {})

    found = [near(DASH, "-----"), near(RIVAL, "-:-:-:-:-:"), near(MORSE, "-:-:-:-:-:")]
    assert list(demo_prompted._picked(found, 16, 5)) == ["5 Dash steps", "Free steps = Morse"]
    found[2] = near(MORSE, "-.-.-.")
    assert list(demo_prompted._picked(found, 16, 5)) == ["5 Dash steps", "Free steps", "Morse"]
    found[1:] = [near(RIVAL, "-----"), near(MORSE, "-----")]
    assert list(demo_prompted._picked(found, 16, 5)) == ["5 Dash steps = Free steps = Morse"]


def test_the_page_of_the_icons(tmp_path):
    """Of another model, without guidance, whose pictures are shown at a budget of its own."""
    small = SMALL | {"pictured_budget": None, "budgets": (4,)}
    console = Console(file=io.StringIO(), width=100)
    demo_prompted.run_demo(tmp_path, "icons", console=console, **small)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    text = (tmp_path / "index.html").read_text()
    assert "Morse on icons of classes" in text
    assert "4 Dash steps" in text
    assert "which has no guidance" in text
    assert {row["model"] for row in rows(tmp_path, "nearness")} == {"icons of classes 32 x 32"}
    for line in demo_models.ICON_LINES.splitlines():
        assert html.escape(line) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")


def test_the_lines_of_the_icons_run():
    names = {}
    exec(compile(demo_models.ICON_LINES, "page", "exec"), names)
    assert names["images"].shape == (2, 3, 32, 32)
