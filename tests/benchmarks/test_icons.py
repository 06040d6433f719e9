"""The ablations on the icons, in a few steps: each is what it says, and differs from the others."""

import json
import sys
import warnings

import pytest
import torch

from icons import ICONS
from morse_engine import Plan, zoo
from morse_engine.zoo.miniature import data as pictures


def test_what_each_ablation_takes_away():
    import icons_ablations as bench

    unet = zoo.icons_dash()
    before = {name: p.clone() for name, p in unet.named_parameters()}
    made = {}
    for name, variant in bench.VARIANTS.items():
        torch.manual_seed(0)
        made[name.split(":")[0]] = variant(unet)
    trained = {
        name: sum(p.numel() for n, p in dot.trained_parameters().items() if n.startswith("trunk."))
        for name, dot in made.items()
    }
    whole = trained["the trunk trained whole"]
    assert trained["without LoRA"] == 0 < trained["as bundled"] < whole / 20
    assert trained["without sharing"] == whole
    names = dict(made["as bundled"].trunk.named_parameters())
    shared = {p.data_ptr() for p in unet.parameters()}
    assert {p.data_ptr() for n, p in names.items() if "lora" not in n} <= shared
    for name in ("without sharing", "the trunk trained whole"):
        assert not {p.data_ptr() for p in made[name].trunk.parameters()} & shared
    assert all(torch.equal(before[name], p) for name, p in unet.named_parameters())

    x, x_s, z_s, z_p = torch.randn(4, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("as bundled", "without the trajectory"):
        dot = made[name].eval()
        with torch.no_grad():
            given = dot.given({"class_labels": torch.tensor([1])})
            when = dot.when(dot.moments(300, 500, 700), given)
            found = dot.features(x, x_s, z_s, z_p, when, given)
            other = dot.features(x, -x_s, 2 * z_s, z_p, when, given)
        assert torch.equal(found, other) == (name == "without the trajectory")


@pytest.mark.slow
def test_a_variant_from_its_training_to_its_rows(tmp_path, monkeypatch):
    import icons_ablations as bench

    monkeypatch.setattr(
        pictures, "load", lambda folder: (torch.full((2, 3, 64, 64), 60).byte(), ICONS)
    )
    for name, value in (("FULL", 4), ("PLANS", [Plan("-.-")]), ("SOLVERS", ("ddim",))):
        monkeypatch.setattr(bench, name, value)
    for name, value in (("SAMPLES", 16), ("HELD_OUT", 8)):
        monkeypatch.setattr(bench.recipe, name, value)
    out = tmp_path / "rows.json"
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--rows", str(out)]
    words += ["--steps", "1", "--images", "2", "--variants", "the trunk trained whole"]
    monkeypatch.setattr(sys, "argv", ["icons_ablations.py", *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step makes no good Dot
        bench.main()
    rows = json.loads(out.read_text())
    assert [row["variant"] for row in rows] == [
        "reuse",
        *["Dash alone"] * 4,
        "the trunk trained whole",
    ]
    assert rows[1]["value"] > rows[2]["value"] == 0  # four Dash steps are all steps here
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert rows[-1]["dot_speed_at_1"] > 0 < rows[-1]["error"]
