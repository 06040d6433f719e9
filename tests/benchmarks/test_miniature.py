"""A LoRA and a consistency model of the miniature: what their trainings do in a few steps."""

import pytest
import torch

from icons import ICONS
from morse_engine import Plan
from tolerances import assert_close


@pytest.fixture
def latents() -> torch.Tensor:
    """Of two pictures of one colour each."""
    colours = torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    return colours.repeat(1, 1, 16, 16)


@pytest.mark.slow
def test_a_lora_learns_its_pictures_and_is_put_on(latents, tmp_path, monkeypatch, capsys):
    import miniature_lora as lora

    monkeypatch.setattr(lora, "PROMPTS", ("a noto bus",))
    monkeypatch.setattr(lora, "FULL", 6)
    pipe = lora.new_pipe()
    lora.train(pipe, latents, ICONS, tmp_path, 20)
    errors = lora.learnt(pipe, latents, ICONS)
    assert errors["with"] < 0.97 * errors["without"]
    assert "step 20 of 20" in capsys.readouterr().out
    rows = lora.under(tmp_path, None)
    assert {row["variant"] for row in rows} == {"free steps", "Dash alone"}
    assert all(row["lora_changes"] > 0.01 for row in rows)


@pytest.mark.slow
def test_a_student_begins_as_its_teacher_and_becomes_a_pipeline(latents, tmp_path):
    import miniature_lcm as lcm
    from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline

    import morse_engine

    pipe = StableDiffusionPipeline.from_pretrained(lcm.WEIGHTS)
    run = lcm.Distillation(pipe, latents, ICONS, tmp_path / "state.pt", num_steps=2)
    t, cond = torch.tensor([999, 19]), run._embedded(["a tiger", ""])
    w = pipe.get_guidance_scale_embedding(torch.tensor([0.0, 5.0]), lcm.EMBEDDING)
    with torch.no_grad():
        theirs = run.teacher(latents, t, cond).sample
        ours = run.stage.model(latents, t, cond, timestep_cond=w).sample
    assert_close("miniature/student", ours, theirs)
    before = [p.clone() for p in run.stage.model.parameters()]
    assert run.stage.run()
    student = run.stage.averaged()
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    lcm.save(pipe, student, tmp_path / "pipeline")
    found = LatentConsistencyModelPipeline.from_pretrained(tmp_path / "pipeline")
    found.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    own = found("a noto heart", generator=torch.Generator().manual_seed(0), **call).images
    assert torch.isfinite(own).all()
    morse_engine.accelerate(found, plan=Plan("--"))
    found("a noto heart", generator=torch.Generator().manual_seed(0), **call)


@pytest.mark.slow
def test_with_a_perfect_model_nothing_is_left_to_distil(latents, tmp_path):
    """All points of a way lead to x0 then: the student's, and the one that DDIM comes to."""
    import miniature_lcm as lcm
    from diffusers import StableDiffusionPipeline
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    pipe = StableDiffusionPipeline.from_pretrained(lcm.WEIGHTS)
    run = lcm.Distillation(pipe, latents[:1], ICONS[:1], tmp_path / "state.pt")
    _, numbers = run.loss(run.stage.model, torch.Generator().manual_seed(0), 0)
    assert numbers["rms"] > 0.05

    def perfect(x, t, cond, timestep_cond=None):
        a = run.alphas[t].view(-1, 1, 1, 1)
        return UNet2DConditionOutput((x - a.sqrt() * latents[:1]) / (1 - a).sqrt())

    run.teacher = perfect
    run.target.forward = perfect
    _, numbers = run.loss(perfect, torch.Generator().manual_seed(0), 0)
    assert numbers["rms"] < 0.02  # x at the end of a way still has a 30th of its noise


@pytest.mark.slow
def test_edits_are_compared_at_equal_steps(monkeypatch):
    import miniature_edits as edits

    plans = {"Dash alone": [Plan("----")], "free steps": [Plan("-:-:-:-:")]}
    monkeypatch.setattr(edits, "PLANS", plans)
    monkeypatch.setattr(edits, "FULL", 8)
    made = edits.Edits(2)
    assert [edits.wanted(prompt) == prompt for prompt in made.prompts] == [False, False]
    for kind in edits.KINDS:
        rows = edits.measured(made, kind)
        assert [(row["part"], row["lsd_at_1"]) for row in rows] == [("---", 3), ("-:-:-:", 3)]
        assert all(0.002 < row["low"] <= row["value"] <= row["high"] < 0.3 for row in rows)
    kept = made.edited("inpainting", Plan("----"))[..., : edits.data.SIZE // 4]
    assert (kept - made.pictures[..., : edits.data.SIZE // 4]).abs().mean() < 0.05


@pytest.mark.slow
def test_both_kinds_of_dots_are_compared(tmp_path, monkeypatch):
    import miniature_branches as branches

    from morse_engine import Dot, zoo

    pipe = zoo.miniature_pipeline()
    Dot(pipe.unet, pipe.scheduler, cut=2).save_pretrained(tmp_path)
    for name, value in (("SCALES", (3.0,)), ("FULL", 4), ("WITH_DOT", [Plan("-.-.")])):
        monkeypatch.setattr(branches, name, value)
    monkeypatch.setattr(branches, "WITHOUT", {branches.DASH: [Plan("----"), Plan("--")]})
    rows = branches.rows(tmp_path, 2)
    assert [row["variant"] for row in rows] == [
        *["dash only"] * 2,
        "Dot, guided",
        "Dot, of each branch",
    ]
    assert rows[0]["value"] == 0 < rows[1]["value"]
    assert rows[2]["value"] != rows[3]["value"]
    assert rows[2]["lsd_at_1"] > rows[0]["lsd_at_1"] / 2 == 2


def test_the_curve_over_guidance_scales():
    import guidance_curve

    row = {"solver": "ddim", "variant": "dash only", "prompt_score": 0.5, "to_real": 4.0}
    rows = [row | {"guidance": scale, "cost_lsd": 50} for scale in (5.0, 1.0)]
    rows += [
        row | {"guidance": 1.0, "cost_lsd": 4, "variant": "free steps"},
        row | {"solver": "dpm"},
    ]
    found = guidance_curve.curves(rows)
    assert [len(points) for points in found.values()] == [2, 0, 1]
    assert found["all 50 steps"] == [(1.0, 0.5, 4.0), (5.0, 0.5, 4.0)]
    assert (
        guidance_curve.table(rows).splitlines()[2] == "| all 50 steps | 0.500, 4.00 | 0.500, 4.00 |"
    )
