"""A model that is no UNet gets a Dot by one class: the protocol `family.Family`."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn

import morse_engine
from models import randomised, tiny_unet
from morse_engine import Dot
from morse_engine.dot.family import Family, Given, shared_copy
from morse_engine.dot.unet import UNet
from morse_engine.system.errors import Refused
from tolerances import assert_close

CHANNELS, SIZE, WIDTH, WAVES = 2, 16, 8, 16
V = {"prediction_type": "v_prediction"}


class Block(nn.Module):
    """Tokens `[B, N, D]`: attention, told of time and prompt by a shift."""

    def __init__(self):
        super().__init__()
        self.shift, self.mix = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens, emb):
        h = tokens + self.shift(emb)[:, None]
        share = (h @ h.transpose(1, 2) / WIDTH).softmax(dim=2)
        return tokens + torch.tanh(self.mix(share @ h))


class Transformer(nn.Module):
    """A small model of patches of 2 x 2 pixels, with a prompt `[B, D]`."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(in_channels=CHANNELS, out_channels=CHANNELS, sample_size=SIZE)
        self.patches = nn.Conv2d(CHANNELS, WIDTH, 2, stride=2)
        self.time, self.prompt = nn.Linear(WAVES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.out = nn.Linear(WIDTH, 4 * CHANNELS)

    def forward(self, x, t, *, prompt):
        h = self.patches(x)
        emb = self.time(get_timestep_embedding(t.reshape(-1), WAVES)) + self.prompt(prompt)
        tokens = h.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, emb)
        h = self.out(tokens).transpose(1, 2).unflatten(2, h.shape[2:])
        return nn.functional.pixel_shuffle(h, 2)


class Tokens:
    """The family of `Transformer`: its blocks but the first."""

    MODELS = "a Transformer"
    LORA_TARGETS = ["mix"]  # noqa: RUF012

    @staticmethod
    def takes(dash):
        return isinstance(dash, Transformer)

    def __init__(self, dash, num_halvings, cut):
        self.cut = 1 if cut is None else cut
        if not 0 <= self.cut < len(dash.blocks):
            raise Refused(f"cut={cut}: 0 to {len(dash.blocks) - 1}")
        self.trunk = shared_copy(dash)
        self.trunk.blocks = self.trunk.blocks[self.cut :]
        del self.trunk.patches, self.trunk.out
        self.conditional, self.channels = True, (WIDTH, WIDTH)
        self.waves_dim, self.emb_dim, self.multiple = WAVES, WIDTH, 1
        self.time_layers = [self.trunk.time]

    def waves(self, t):
        return get_timestep_embedding(t, WAVES)

    def given(self, cond, dtype):
        if set(cond) != {"prompt"}:
            raise Refused(f"give prompt, not {', '.join(cond)}")
        return Given(emb=self.trunk.prompt(cond["prompt"].to(dtype)))

    def embedding(self, waves, trail, of):
        emb = self.trunk.time(waves) + trail
        return emb if of.emb is None else emb + of.emb

    def prepare(self):
        pass

    def told(self, emb):
        return emb

    def run(self, h, emb, of):
        tokens = h.flatten(2).transpose(1, 2)
        for block in self.trunk.blocks:
            tokens = block(tokens, emb)
        return tokens.transpose(1, 2).unflatten(2, h.shape[2:])


@pytest.fixture
def dash(monkeypatch):
    monkeypatch.setattr(morse_engine.dot.families, "FAMILIES", [UNet, Tokens])
    torch.manual_seed(0)
    return Transformer().eval()


def prompts(rows):
    return {"prompt": torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))}


def inputs(rows=2):
    generator = torch.Generator().manual_seed(2)
    x, x_s, z_s, z_p = torch.randn((4, rows, CHANNELS, SIZE, SIZE), generator=generator)
    return x, torch.tensor(300), x_s, z_s, torch.tensor(500), z_p, torch.tensor(800)


def test_the_first_family_has_what_the_protocol_says():
    members = {name for name in (*vars(Family), *Family.__annotations__) if name[0] != "_"}
    family = UNet(tiny_unet(), 2, None)
    assert len(members) == 17
    assert all(hasattr(family, name) for name in members)


def test_no_family_takes_it():
    with pytest.raises(Refused, match="not on a Transformer"):
        Dot(Transformer())


def test_a_family_of_tokens(dash, tmp_path):
    dot = Dot(dash, DDPMScheduler(**V), widths=(4, 8), lora_rank=2)
    x, t, x_s, z_s, t_s, *_ = inputs()
    held = dot.levels.miss(x, x_s, z_s, t.repeat(2), t_s.repeat(2))
    assert_close("levels", dot(*inputs(), **prompts(2)), held)
    trained = dot.trained_parameters()
    lora = {f"trunk.blocks.{i}.mix.lora_{ab}.default.weight" for i in (0, 1) for ab in "AB"}
    assert {name for name in trained if name.startswith("trunk.")} == lora
    shared = {p.data_ptr() for p in dash.blocks[1:].parameters()}
    assert shared < {p.data_ptr() for p in dot.trunk.parameters()}, "Dash's weights, not copies"

    dot = randomised(dot)
    eta = dot(*inputs(), **prompts(2))
    eta.square().mean().backward()
    assert not [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    dot.save_pretrained(tmp_path)
    again = Dot.from_pretrained(tmp_path, dash)
    assert torch.equal(again(*inputs(), **prompts(2)), eta)
    assert_close("lora_merge", dot.merged()(*inputs(), **prompts(2)), eta)

    with pytest.raises(Refused, match="give prompt, not text"):
        dot(*inputs(), text=1)
    x = torch.zeros(1, CHANNELS, 6, 8)
    with pytest.raises(Refused, match="multiples of 4"):
        dot(x, 1, x, x, 2, x, 3, **prompts(1))
    with pytest.raises(Refused, match="cut=3: 0 to 2"):
        Dot(dash, cut=3)


@pytest.mark.parametrize(("guided", "scale"), [(False, None), (False, 2.5), (True, 2.5)])
def test_runs_of_a_family_of_tokens(dash, guided, scale):
    dot = randomised(Dot(dash, DDPMScheduler(**V), widths=(4, 8), guided=guided))
    options = {"plan": "-.-..", "scheduler": DDIMScheduler(**V)}
    eager, host = (
        morse_engine.compile(dash, dot, backend=name, **options) for name in ("eager", "host")
    )
    call = {"batch_size": 2, "seed": 3, "guidance_scale": scale}
    call |= prompts(2 if scale is None else 4)
    expected = eager(**call)
    assert_close("steps", host(**call), expected)
    untrained = Dot(dash, DDPMScheduler(**V), guided=guided)
    dots = morse_engine.compile(dash, untrained, backend="eager", **options)(**call)
    assert (expected - dots).abs().max() > 1e-2, "Dot has a say in it"
