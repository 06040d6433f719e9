"""Training with conditions: a tiny text-to-image Dash, Dots of both kinds, prompts never seen."""

import itertools
import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, LCMScheduler
from torch import nn

from models import SDXL, text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot, train_dot
from morse_engine.training.batches import noisy_batch
from morse_engine.training.captioned import EMPTY, Captioned
from morse_engine.training.fit import Fit
from morse_engine.training.prompts import Prompts
from morse_engine.training.visits import Visits, visit
from tolerances import assert_close

NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SOLVERS = [
    DDIMScheduler(**NOISE, clip_sample=False, timestep_spacing="trailing"),
    DPMSolverMultistepScheduler(**NOISE, timestep_spacing="trailing"),
]
COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0)}
PLACES = {"left": 4, "middle": 8, "right": 12}
FORMS = ("square", "disc", "bar")
WORDS = ("", *COLOURS, *FORMS, *PLACES)
UNSEEN = {("red", "disc", "left"), ("green", "bar", "right"), ("blue", "square", "middle")}


def drawing(colour, form, place, generator):
    """A shape on grey, `[4, 16, 16]`: three colours and where the shape is."""
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    shift = torch.rand(2, generator=generator) * 2 - 1
    y, x = (y - 8 + shift[0]).abs(), (x - PLACES[place] + shift[1]).abs()
    inside = {"square": torch.maximum(x, y) < 3, "disc": x.hypot(y) < 3, "bar": (x < 2) & (y < 6)}
    paint = torch.tensor([*COLOURS[colour], 1.0])[:, None, None]
    return torch.where(inside[form], paint, torch.tensor([-0.2, -0.2, -0.2, -1.0])[:, None, None])


def captioned(prompts, copies: int) -> Captioned:
    """Drawings with a fixed embedding of three words in the place of a text encoder."""
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(len(WORDS), 8, generator=generator)
    prompts = [p for p in prompts for _ in range(copies)]
    text = torch.stack([table[[WORDS.index(word) for word in p]] for p in prompts])
    images = torch.stack([drawing(*p, generator) for p in prompts])
    keywords = {"encoder_hidden_states": text}
    return Captioned(images, keywords, {"encoder_hidden_states": table[[0, 0, 0]][None]})


EVERY = list(itertools.product(COLOURS, FORMS, PLACES))
# Attention on the inner levels alone: at 16 x 16 it is most of the time.
INNER = {
    "block_out_channels": (8, 16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
SEEN = captioned([p for p in EVERY if p not in UNSEEN], 12)
HELD_OUT = captioned(sorted(UNSEEN), 16)


@pytest.fixture(scope="module")
def dash():
    """A quarter of a minute of denoising, with a tenth of the prompts empty."""
    torch.manual_seed(0)
    unet = tiny_text_unet(**INNER).train()
    noise = DDPMScheduler(**NOISE)
    dot = Dot(unet, noise)
    prompts = Prompts(SEEN, dot, unet, dropout=0.1, guidance=(2, 12))
    steps = 200
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows, _, eps, x, t = noisy_batch(SEEN, noise, 16, generator, "cpu")
        asked = prompts.asked(prompts.columns(rows, generator))
        loss = nn.functional.mse_loss(prompts.dash(x, t, asked), eps)
        loss.backward()
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.2, "the fixture is no denoiser"
    return unet.eval()


def dot_run(folder, unet=None, data=SEEN, *, guided=False, **options):
    unet = unet if unet is not None else tiny_text_unet(**INNER)
    torch.manual_seed(0)
    dot = Dot(unet, DDPMScheduler(**NOISE), widths=(8, 8), guided=guided)
    options = {
        "schedulers": SOLVERS,
        "num_steps": 5,
        "batch_size": 4,
        "data_share": 0.5,
        "num_visits": 64,
        "refresh_every": 2,
        "run_steps": (4, 6),
        "checkpoint_every": 2,
    } | options
    noise = DDPMScheduler(**NOISE)
    return train_dot(dot, unet, data, noise, folder, progress=False, **options)


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


TRAINED = {
    "num_steps": 100, "batch_size": 16, "data_share": 0.25, "num_visits": 1024, "refresh_every": 30,
    "run_steps": (4, 12), "checkpoint_every": 50, "ema_decay": 0.95, "warmup": 10, "lr": 5e-3,
    "own_way_from": 0.3, "guidance": (2.0, 6.0),
}  # fmt: skip


@pytest.fixture(scope="module", params=[False, True], ids=["each branch", "guided"])
def trained(request, dash, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    dot = dot_run(folder, dash, guided=request.param, held_out=HELD_OUT, **TRAINED)
    return dot, folder


@pytest.mark.slow
def test_dot_beats_the_zero_residual_on_prompts_never_seen(trained):
    dot, folder = trained
    first, last = rows(folder)
    print(f"guided={dot.guided}: {last['held_out_loss'] / last['zero_residual']:.3f} of zero's")
    assert last["loss"] < 0.7 * min(1.0, first["loss"]), "relative loss: zero residual about 1"
    assert last["held_out_loss"] < 0.85 * last["zero_residual"]
    assert sum(b["n"] for b in last["bins"]) == len(HELD_OUT)


def held_out_error(dot, unet) -> tuple[float, float]:
    """Squared errors of Dot and of the zero residual on the way of DDIM, prompts never seen."""
    visits = Visits(4096)
    prompts = Prompts(HELD_OUT, dot, unet, dropout=0.0, guidance=(4.0, 4.0))
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        visit(dot, prompts, SOLVERS[:1], (8, 12), 8, generator, visits)
    batch = {name: value[: visits.count] for name, value in visits.rows.items()}
    with torch.no_grad():
        eta = dot(*(batch[n] for n in Visits.NAMES[:-1]), **prompts.asked(batch).dot)
    assert torch.isfinite(eta).all()
    ours = (batch["z_s"] + eta - batch["z"]).square().mean()
    return float(ours), float((batch["z_s"] - batch["z"]).square().mean())


@pytest.mark.slow
def test_what_a_lora_on_dash_costs(trained, dash):
    """Its Dot knows nothing of the LoRA, but is given estimates that do."""
    from peft import LoraConfig

    dot, _ = trained
    plain, zero = held_out_error(dot, dash)
    x, text = torch.randn(4, 4, 16, 16), HELD_OUT.part(slice(0, 4)).cond
    with torch.no_grad():
        before = dash(x, 500, **text).sample
    torch.manual_seed(4)
    dash.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v", "to_out.0"]), "style")
    try:
        with torch.no_grad():
            for name, p in dash.named_parameters():
                if "lora_B" in name:
                    p.normal_(std=0.2)
            change = float((dash(x, 500, **text).sample - before).norm() / before.norm())
        shifted, zero_shifted = held_out_error(dot, dash)
    finally:
        dash.delete_adapters("style")
    with_lora = shifted / zero_shifted
    print(f"guided={dot.guided}: the LoRA changes Dash's estimate by {change:.1%}; of zero's error")
    print(f"{plain / zero:.3f} are left without it, {with_lora:.3f} with it")
    assert change > 0.02, "too small a LoRA to tell"
    assert plain < 0.75 * zero
    assert with_lora < 1.0, "worse than no Dot"
    assert with_lora < 2 * plain / zero


@pytest.mark.slow
def test_files(trained, dash):
    """What the run left in dot/ is what it returned."""
    dot, folder = trained
    again = Dot.from_pretrained(folder / "dot", dash)
    for name, p in dot.trained_parameters().items():
        assert torch.equal(p, again.trained_parameters()[name]), name


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
def test_stopped_and_resumed_is_the_uninterrupted_run(guided, tmp_path, monkeypatch):
    whole = dot_run(tmp_path / "whole", guided=guided, accumulate=2)
    one_step = Fit._one_step

    def stop(self):
        if self.step == 3:
            raise Killed
        return one_step(self)

    monkeypatch.setattr(Fit, "_one_step", stop)
    with pytest.raises(Killed):
        dot_run(tmp_path / "killed", guided=guided, accumulate=2)
    monkeypatch.undo()
    again = dot_run(tmp_path / "killed", guided=guided, accumulate=2)
    for name, p in whole.trained_parameters().items():
        assert torch.equal(p, again.trained_parameters()[name]), name


@pytest.mark.slow
def test_accumulated_batches_are_those_of_more_processes(tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        "morse_engine.training.fit.step_generator",
        lambda *seed: seeds.append(seed) or torch.Generator().manual_seed(0),
    )
    dot_run(tmp_path, num_steps=2, accumulate=3)
    assert [s[2] for s in seeds] == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="accumulate=0"):
        dot_run(tmp_path, accumulate=0)


@pytest.fixture
def fresh_accelerate():
    """accelerate takes one precision for each process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_mixed_precision(tmp_path):
    """A Dot trained in bf16 has float32 weights, and its copies work by themselves."""
    dot = dot_run(tmp_path, mixed_precision="bf16", held_out=HELD_OUT.part(slice(0, 6)))
    assert {p.dtype for p in dot.trained_parameters().values()} == {torch.float32}
    assert "forward" not in vars(dot), "the wrapper of accelerate is left"
    assert rows(tmp_path)[-1]["held_out_loss"] > 0


@pytest.mark.slow
def test_sdxl_and_lcm(tmp_path):
    images = torch.randn(6, 4, 16, 16)
    sdxl = Captioned(images, text_cond(6, sdxl=True), text_cond(1, sdxl=True, seed=9))
    short = {"num_steps": 2, "refresh_every": 1}  # a walk of Dash, then one of Dot
    for guided in (False, True):
        unet = tiny_text_unet(**SDXL)
        dot_run(tmp_path / f"sdxl {guided}", unet, sdxl, guided=guided, **short)
        assert "dot" in {path.name for path in (tmp_path / f"sdxl {guided}").iterdir()}
    lcm = tiny_text_unet(time_cond_proj_dim=6)
    data = Captioned(images, text_cond(6))
    dot_run(tmp_path / "lcm", lcm, data, schedulers=[LCMScheduler()], run_steps=(2, 4), **short)
    with pytest.raises(ValueError, match="has the guidance embedded"):
        dot_run(tmp_path, lcm, Captioned(images, text_cond(6), text_cond(1)), guided=True)


def test_the_guidance_embedding_is_that_of_the_pipeline():
    from diffusers import LatentConsistencyModelPipeline

    unet = tiny_text_unet(time_cond_proj_dim=6)
    data = Captioned(torch.randn(3, 4, 16, 16), text_cond(3))
    prompts = Prompts(data, Dot(unet), unet, dropout=0.1, guidance=(2, 12))
    columns = prompts.columns(torch.arange(3), torch.Generator().manual_seed(0))
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    expected = embed(None, columns["scale"] - 1, embedding_dim=6)
    assert_close("model_batch", prompts.asked(columns).dash["timestep_cond"], expected)


@pytest.mark.slow
def test_classes_without_an_empty_one(tmp_path):
    unet = tiny_unet(num_class_embeds=4)
    data = Captioned(torch.randn(8, 1, 16, 16), {"class_labels": torch.arange(8) % 4})
    dot_run(tmp_path, unet, data, schedulers=SOLVERS)
    with pytest.raises(ValueError, match=r"needs both branches of Dash, Captioned\.empty"):
        dot_run(tmp_path / "guided", unet, data, guided=True)
    with pytest.raises(ValueError, match="give the images as Captioned"):
        dot_run(tmp_path / "bare", unet, data.images)


def test_what_dash_is_asked():
    """Per branch a tenth of the prompts is empty; guided is u + w (c - u)."""
    unet = tiny_text_unet()
    each, guided = (
        Prompts(SEEN, Dot(unet, guided=g), unet, dropout=0.1, guidance=(2, 12))
        for g in (False, True)
    )
    which = torch.arange(200)
    columns = each.columns(which, torch.Generator().manual_seed(0))
    empty = columns["row"] == EMPTY
    assert 8 <= int(empty.sum()) <= 35
    text = each.asked(columns).dash["encoder_hidden_states"]
    assert torch.equal(text[empty][0], SEEN.empty["encoder_hidden_states"][0])
    assert torch.equal(text[~empty], SEEN.cond["encoder_hidden_states"][which[~empty]])

    columns = guided.columns(which[:4], torch.Generator().manual_seed(0))
    assert 2 <= columns["scale"].min() <= columns["scale"].max() <= 12
    x, t = torch.randn(4, 4, 16, 16), torch.tensor([10, 300, 500, 999])
    asked = guided.asked(columns)
    u, c = (
        each.dash(x, t, each.asked({"row": rows}))
        for rows in (torch.full((4,), EMPTY), columns["row"])
    )
    expected = u + columns["scale"].view(4, 1, 1, 1) * (c - u)
    assert_close("model_batch", guided.dash(x, t, asked), expected)
    assert torch.equal(asked.dot["guidance_scale"], columns["scale"])
    assert len(asked.dot["encoder_hidden_states"]) == 4


@pytest.mark.slow
def test_wrong_input(tmp_path):
    images = torch.zeros(3, 4, 16, 16)
    with pytest.raises(ValueError, match="encoder_hidden_states has 2 rows for 3 images"):
        Captioned(images, text_cond(2))
    with pytest.raises(ValueError, match="empty prompt has 2 rows"):
        Captioned(images, text_cond(3), text_cond(2))
    with pytest.raises(ValueError, match="added_cond_kwargs"):
        Captioned(images, text_cond(3, sdxl=True), text_cond(1))
    for options, said in (
        ({"dropout": 1.5}, r"dropout=1\.5: give a part, from 0 to 1"),
        ({"guidance": (8, 2)}, "the lower first"),
    ):
        with pytest.raises(ValueError, match=said):
            dot_run(tmp_path, **options)
