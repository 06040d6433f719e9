import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, UNet2DConditionModel

import morse_engine
from models import randomised, tiny_text_unet, tiny_unet
from morse_engine import Dot, Plan, SolverTable
from morse_engine.runtime.speed import Speed
from morse_engine.sampling import budget, noise
from morse_engine.sampling.budget import Ranking, choose
from morse_engine.sampling.loop import sample
from morse_engine.zoo import digits_scheduler
from tolerances import assert_close

SHAPE = (1, 16, 16)


def test_compile_with_nothing_but_the_models(models):
    unet, dot = models
    assert morse_engine.compile(unet).plan == Plan("-" * 50)
    sampler = morse_engine.compile(unet, dot)
    assert sampler.plan.num_dash <= 10
    assert sampler(batch_size=1).shape == (1, *SHAPE)


def test_sampler_is_the_specification(models):
    unet, dot = models
    sampler = morse_engine.compile(unet, dot, plan="-..-..", merge_dot=False)
    table = SolverTable.from_scheduler(DDIMScheduler(timestep_spacing="trailing"), 6)
    x = noise.normal([7, 8], noise.INITIAL, SHAPE)
    ours = sampler(batch_size=2, seed=7)
    expected = sample(lambda x, t: unet(x, t).sample, dot, Plan("-..-.."), table, x, [7, 8])
    assert torch.equal(ours, expected)
    assert torch.equal(sampler(noise=x, seed=7), expected)
    assert torch.equal(sampler(noise=x, seed=[7, 8]), expected)
    merged = morse_engine.compile(unet, dot, plan="-..-..")(batch_size=2, seed=7)
    assert_close("run_merge", merged, expected)


def test_a_solver_is_read_once_for_plans_and_backends_of_as_many_calls(models, monkeypatch):
    sampler = morse_engine.compile(*models, plan="-..-..")
    read = []
    for_calls = SolverTable.for_calls
    monkeypatch.setattr(
        SolverTable, "for_calls", lambda *args, **kw: read.append(args) or for_calls(*args, **kw)
    )
    host = sampler.with_backend("host").with_plan("-.-.-.").with_backend("eager")
    assert (host.table, str(host.plan), read) == (sampler.table, "-.-.-.", [])
    assert len(sampler.with_plan("-.").table) == len(read) + 1 == 2
    other = sampler.with_plan("-..-..", DDIMScheduler())
    assert len(read) == 2
    assert not other.table.equals(sampler.table), "another spacing"


def test_a_sampler_of_a_table_keeps_it(models):
    sampler = morse_engine.compile(*models, plan="-..-..")
    table = SolverTable.from_scheduler(DDIMScheduler(), 4)
    made = sampler.with_table(Plan("-.-."), table).with_backend("host").with_plan("-...")
    assert made.table is table
    expected = morse_engine.compile(*models, plan="-...", scheduler=DDIMScheduler())
    x = noise.normal([1], noise.INITIAL, SHAPE)
    assert_close("steps", made(x, seed=1), expected(x, seed=1))
    with pytest.raises(ValueError, match="made from a table"):
        made.with_plan("-.")


def test_a_solver_that_adds_noise_and_that_the_dot_never_saw(models, recwarn):
    unet, dot = models
    trained = copy.copy(dot)
    trained.solvers = ("ddim", "ddpm")
    for solver in ("unipc", "ddpm"):  # the first adds none
        morse_engine.compile(unet, trained, plan="-.", scheduler=digits_scheduler(solver))
    morse_engine.compile(unet, dot, plan="-.", scheduler=digits_scheduler("dpm-sde"))  # not known
    morse_engine.compile(unet, trained, plan="--", scheduler=digits_scheduler("dpm-sde"))
    assert not [w for w in recwarn if "adds noise" in str(w.message)]
    with pytest.warns(UserWarning, match=r"dpm-sde adds noise, .* trained with ddim, ddpm alone"):
        morse_engine.compile(unet, trained, plan="-.", scheduler=digits_scheduler("dpm-sde"))


def test_plan_in_all_its_forms(models):
    unet, dot = models
    assert str(morse_engine.compile(unet, dot, plan="-.-").plan) == "-.-"
    assert str(morse_engine.compile(unet, dot, plan=Plan("-.-")).plan) == "-.-"
    assert len(morse_engine.compile(unet).plan) == 50


def test_a_budget_buys_the_best_plan_that_is_known(models, tmp_path):
    """In all its forms; by the table of the package, or a search that lies in a folder."""
    unet, dot = models
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    options = {"scheduler": scheduler, "dot_speed": 6.0}
    forms = ({"plan": 4}, {"plan": "auto", "budget": 4}, {"budget": 4.0})
    bought = [morse_engine.compile(unet, dot, **form, **options) for form in forms]
    assert {sampler.plan for sampler in bought} == {choose(4, scheduler, 6.0).plan}
    assert "chosen for 4 LSD at N = 6 by the table of the package" in str(bought[0].report())
    assert "chosen" not in str(morse_engine.compile(unet, plan="--").report())
    default = morse_engine.compile(unet, dot, **options)
    assert default.plan == morse_engine.compile(unet, dot, plan="auto", **options).plan
    assert default.plan == choose(10, scheduler, 6.0).plan
    assert morse_engine.compile(unet, plan=4, scheduler=scheduler).plan.num_dot == 0

    found = Ranking({Plan("-.:-.:"): 0.1, Plan("----"): 0.2}, (4, 4), (6.0, 6.0))
    budget.write(tmp_path, {"ddim": found})
    sampler = morse_engine.compile(unet, dot, plan=4, plans=tmp_path, **options)
    assert str(sampler.plan) == "-.:-.:"
    assert f"by a search in {tmp_path}" in str(sampler.report())
    dot.save_pretrained(tmp_path)  # where a loaded Dot looks by itself
    loaded = morse_engine.Dot.from_pretrained(tmp_path, unet)
    assert str(morse_engine.compile(unet, loaded, plan=4, **options).plan) == "-.:-.:"
    with pytest.raises(ValueError, match=r"plan='-\.' and budget=4: give one"):
        morse_engine.compile(unet, dot, plan="-.", budget=4)


@pytest.mark.parametrize(("model", "has_free"), [(tiny_unet, True), (tiny_text_unet, False)])
def test_a_model_that_takes_text_counts_as_guided(model, has_free):
    """With guidance few Dash steps of a solver that adds noise have no free steps of the table."""
    ddpm = digits_scheduler("ddpm")
    sampler = morse_engine.compile(model(), plan=4, scheduler=ddpm, clean_range=(-1, 1))
    assert bool(sampler.plan.num_free) == has_free


def test_n_is_measured_at_the_batch_in_use(models, monkeypatch):
    asked = []
    monkeypatch.setattr(
        morse_engine.engine.Sampler,
        "measure",
        lambda self, batch_size: asked.append(batch_size) or Speed(6.0, 2.0, 3.0),
    )
    morse_engine.compile(*models, plan=4, batch_size=8)
    assert asked == [8]


def test_solvers_with_more_calls_than_steps(models):
    sampler = morse_engine.compile(models[0], plan="-----", scheduler=HeunDiscreteScheduler())
    assert len(sampler.table) == 5
    with pytest.raises(ValueError, match="Heun"):
        morse_engine.compile(models[0], plan="----", scheduler=HeunDiscreteScheduler())


def test_any_callable_with_conditioning():
    def unet(x, timestep, *, shift):
        return 0.1 * x + shift

    def dot(x, timestep, x_s, z_s, timestep_s, z_p, timestep_p, *, shift):
        return torch.zeros_like(x)

    sampler = morse_engine.compile(unet, dot, plan="-.-.", shape=SHAPE)
    x = sampler(batch_size=3, shift=torch.tensor(0.0))
    assert not torch.equal(x, sampler(batch_size=3, shift=torch.tensor(0.1)))
    assert x.shape == (3, *SHAPE)


def test_conditional_unet_all_dash():
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    text = torch.randn(2, 5, 8)
    sampler = morse_engine.compile(unet, plan="---")
    x = sampler(batch_size=2, seed=3, encoder_hidden_states=text)
    assert x.shape == (2, 4, 16, 16)
    assert not torch.equal(x, sampler(batch_size=2, seed=3, encoder_hidden_states=text + 1))


def test_half_precision_model_float32_state():
    unet = tiny_unet().to(torch.bfloat16)
    dot = randomised(Dot(unet))
    x = morse_engine.compile(unet, dot, plan="-.-.")(batch_size=1)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()


def test_report(models):
    unet, dot = models
    sampler = morse_engine.compile(unet, dot, plan="-..-..")
    report = sampler.report()
    assert (report.backend, str(report.plan), report.lsd_ms) == ("eager", "-..-..", None)
    parameters = sum(p.numel() for p in unet.parameters())
    assert report.dash_bytes == 4 * parameters
    shared = morse_engine.compile(unet, dot, plan="-.", merge_dot=False).report()
    trained = sum(p.numel() for p in dot.trained_parameters().values())
    assert shared.dot_bytes == 4 * trained
    assert report.dot_bytes > 4 * trained, "merged: the trunk is there once more"
    report = sampler.report(measure=True, batch_size=2)
    assert report.cost_lsd == pytest.approx(2 + 4 / report.dot_speed)
    assert report.dot_speed == pytest.approx(report.lsd_ms / report.dot_ms)
    for word in ("-..-..", "DDIM", "eager", "LSD", "device"):
        assert word in str(report)


def test_a_report_warns_of_a_busy_machine(models):
    report = morse_engine.compile(*models, plan="-..").report(measure=True, batch_size=1)

    def of(low: float, high: float) -> str:
        bands = {"lsd_ms": (low, high)}
        return str(replace(report, speed=replace(report.speed, spreads=bands)))

    assert "busy" not in of(10.0, 12.0)
    assert "machine is busy: a Dash step takes from 10.00 to 13.00 ms; measure" in of(10.0, 13.0)


# -- wrong input: each is refused before any model runs --------------------------------------------


@pytest.fixture
def asleep(models):
    """A sampler whose models must not be called."""
    unet, dot = models
    sampler = morse_engine.compile(unet, dot, plan="-..")
    sampler.models.dash = sampler.models.dot = lambda *a, **k: pytest.fail("a model was called")
    return sampler


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"noise": torch.zeros(2, 3, 16, 16)}, r"\(3, 16, 16\).*\(1, 16, 16\)"),
        ({"noise": torch.zeros(2, 1, 32, 32)}, r"\(1, 32, 32\).*\(1, 16, 16\)"),
        ({"noise": torch.zeros(1, 16, 16)}, r"\[B, C, H, W\]"),
        ({"noise": torch.zeros(1, 1, 16, 16, dtype=torch.long)}, "floats"),
        ({"noise": torch.full((1, 1, 16, 16), torch.nan)}, "NaN"),
        ({"noise": [1, 2]}, "list"),
        ({"noise": torch.zeros(2, 1, 16, 16), "seed": [1, 2, 3]}, "noise: 2, seed: 3"),
        ({"batch_size": 2, "seed": [1]}, "batch_size: 2, seed: 1"),
        ({"batch_size": 0}, "0 images"),
        ({"seed": []}, "0 images"),
        ({"seed": -1}, "-1"),
        ({"seed": 2**64}, str(2**64)),
    ],
)
def test_wrong_call(asleep, call, message):
    with pytest.raises(ValueError, match=message):
        asleep(**call)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": ".--"}, "Dash"),
        ({"plan": ""}, "at least one step"),
        ({"plan": "-x"}, "x"),
        ({"plan": 0.5, "dot_speed": 6.0}, r"0\.5"),
        ({"plan": 5, "dot_speed": 0.0}, "dot_speed"),
        ({"scheduler": object()}, "object"),
        ({"scheduler": DDIMScheduler(thresholding=True)}, "thresholding"),
        ({"backend": "fast"}, "fast"),
    ],
)
def test_wrong_options(models, options, message):
    with pytest.raises(ValueError, match=message):
        morse_engine.compile(*models, **options)


def test_a_backend_that_is_not_there(models):
    with pytest.raises(RuntimeError, match=r'"device".*eager'):
        morse_engine.compile(*models, backend="device")


def test_auto_is_eager_and_host_is_on_request(models):
    reports = [
        morse_engine.compile(*models, plan="-.", backend=name).report() for name in ("auto", "host")
    ]
    assert [report.backend for report in reports] == ["eager", "host"]


def test_models_that_do_not_fit():
    unet = tiny_unet()
    with pytest.raises(ValueError, match="no dot"):
        morse_engine.compile(unet, plan="-.")
    with pytest.raises(ValueError, match="another Dash"):
        morse_engine.compile(unet, Dot(tiny_unet(seed=4)), plan="-.")
    with pytest.raises(ValueError, match="predict a variance"):
        morse_engine.compile(tiny_unet(out_channels=2))
    with pytest.raises(ValueError, match="not a model"):
        morse_engine.compile("unet")
    with pytest.raises(ValueError, match="not a Dot"):
        morse_engine.compile(unet, "dot")
    with pytest.raises(ValueError, match="shape="):
        morse_engine.compile(lambda x, t: x, plan="-")()


@pytest.mark.slow
def test_inductor_compiles_both_models_and_leaves_the_callers_alone(monkeypatch):
    """Through dynamo, without the code generator, which takes minutes."""
    unet = tiny_unet()
    dot = randomised(Dot(unet))
    given = []
    real = torch.compile

    def compile_without_inductor(function, **options):
        given.append(options)
        return real(function, backend="eager", dynamic=False)

    monkeypatch.setattr(torch, "compile", compile_without_inductor)
    options = {"plan": "-.", "backend": "host", "merge_dot": False}
    ours = morse_engine.compile(unet, dot, inductor=True, **options)
    expected = morse_engine.compile(unet, dot, **options)(batch_size=2, seed=1)
    assert_close("steps", ours(batch_size=2, seed=1), expected)
    assert given == 2 * [{"dynamic": False, "options": {"triton.cudagraphs": False}}]
    assert "features" not in vars(dot), "the caller's Dot is not compiled"
