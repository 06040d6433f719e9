"""benchmarks/model_plans.py: a search with each bundled model writes plans beside its Dot."""

import json
import sys

import pytest

from morse_engine.sampling import budget
from morse_engine.sampling.plan import Plan


@pytest.mark.slow
@pytest.mark.parametrize("model", ["digits", "icons", "miniature"])
def test_plans_of_a_bundled_model(model, tmp_path, monkeypatch):
    import model_plans as plans

    bundled = plans.MODELS[model]()
    assert (bundled.folder / "config.json").exists()
    made = bundled._replace(folder=tmp_path, speeds=(2.0,))
    monkeypatch.setattr(plans, "MODELS", {model: lambda: made})
    monkeypatch.setattr(plans, "FULL_STEPS", {"ddim": 4})
    words = ["model_plans", "--model", model, "--solvers", "ddim", "--tries", "2"]
    words += ["--images", "16", "--budgets", "2"]
    monkeypatch.setattr(sys, "argv", words)
    plans.main()
    found = budget.read(tmp_path)["ddim"]
    assert found.scores[Plan("----")] == 0 < found.scores[Plan("--")]
    assert any(plan.num_dot for plan in found.scores)
    assert found.budgets == (2,)
    settings = json.loads((tmp_path / "plans-ddim.partial" / "settings.json").read_text())
    assert settings["num_images"] == 16
    assert settings["full_steps"] == 4
