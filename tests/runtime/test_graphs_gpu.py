"""Captured steps on a GPU: the bits of the same kernels launched one by one."""

import gc
import threading

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from peft import LoraConfig

import morse_engine
from models import randomised, text_cond, tiny_text_unet, tiny_unet
from morse_engine import Dot
from morse_engine.runtime import native
from morse_engine.runtime.capture import capture
from morse_engine.runtime.captures import CAPACITY
from morse_engine.sampling.request import Request
from solvers import FAMILIES
from tolerances import assert_close

pytestmark = pytest.mark.gpu

PLAN = "-..-.-."
BACKENDS = ["host", "device"]


def compiled(models, backend, **options):
    options = {"plan": PLAN, "scheduler": DPMSolverMultistepScheduler()} | options
    return morse_engine.compile(*models, backend=backend, **options)


@pytest.fixture(scope="module")
def on_gpu():
    unet = tiny_unet(in_channels=3, out_channels=3, sample_size=32).cuda()
    return unet, randomised(Dot(unet))


def by_hand(sampler, batch_size, **call):
    """The fused steps without a graph, over memory of the same layout."""
    cond = {name: value for name, value in call.items() if name not in ("seed", "guidance_scale")}
    request = Request.make(
        None, batch_size, call.get("seed", 0), call.get("guidance_scale"), cond,
        shape=sampler.shape, device=sampler.models.device,
    )  # fmt: skip
    captures, args = sampler.captures, (sampler.plan, sampler.table, request)
    steps = captures._steps_for(captures._layout(*args, CAPACITY), *args)
    steps.fill(request)
    steps.draw()
    steps.begin()
    for symbol in sampler.plan:
        (steps.dash_step if symbol == "-" else steps.dot_step)()
    return steps.state.x.clone()


def needs(backend):
    if backend == "device" and native.reason():
        pytest.skip(native.reason())


FEW = ("ddim, clipped", "dpm 2m sde", "heun")  # the others take minutes on a GPU


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in FAMILIES],
)
def test_every_solver_family(on_gpu, backend, family):
    needs(backend)
    ours = compiled(on_gpu, backend, scheduler=FAMILIES[family])
    for batch_size in (1, 3, 8):
        for options in ({}, {"guidance_scale": 3.0}):
            x = ours(batch_size=batch_size, seed=7, **options)
            assert torch.equal(x, by_hand(ours, batch_size, seed=7, **options))
    eager = compiled(on_gpu, "eager", scheduler=FAMILIES[family])
    expected, x = eager(batch_size=3, seed=7), ours(batch_size=3, seed=7)
    assert_close("steps", x / expected.abs().max(), expected / expected.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_plans_of_1_to_200_steps(on_gpu, backend, dtype):
    needs(backend)
    unet = tiny_unet(in_channels=3, out_channels=3, sample_size=32).cuda().to(dtype)
    ours = compiled((unet, randomised(Dot(unet))), backend)
    for plan in ("-", "-.", "--", "-" + "." * 9, "-..-.-." * 3, "-.--.." * 33 + "--", "-" * 200):
        changed = ours.with_plan(plan)
        assert torch.equal(changed(batch_size=2, seed=1), by_hand(changed, 2, seed=1)), plan
    assert ours.report().captures == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_changes_without_a_new_capture(on_gpu, backend):
    needs(backend)
    unet, _ = on_gpu

    def dash(x, t, *, shift):
        return unet(x, t).sample + shift[:, None, None, None] * x

    def light(x, t, x_s, z_s, t_s, z_p, t_p, *, shift):
        return 0.1 * (x - x_s) + shift[:, None, None, None] * (z_s - z_p)

    options = {"shape": (3, 32, 32), "plan": PLAN, "backend": backend}
    ours = morse_engine.compile(dash, light, **options)
    noise = torch.randn(2, 3, 32, 32, device="cuda")
    call = {"shift": torch.rand(4, device="cuda"), "guidance_scale": 3.0, "seed": [3, 4]}
    eager = morse_engine.compile(dash, light, **options | {"backend": "eager"})
    for change in ({}, {"seed": [9, 2**63]}, {"guidance_scale": 7.5}, {"shift": call["shift"] + 1}):
        for plan in (PLAN, "-", "-.-.-.-.-.-."):
            for scheduler in (None, FAMILIES["dpm 2m"]):
                pair = [s.with_plan(plan, scheduler) for s in (ours, eager)]
                x, expected = (sampler(noise, **call | change) for sampler in pair)
                scale = expected.abs().max()
                assert_close("steps", x / scale, expected / scale)
    assert ours.report().captures == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_1000_runs_take_no_more_memory(on_gpu, backend):
    needs(backend)
    ours = compiled(on_gpu, backend, plan="-..")
    first = ours(seed=0)

    def used():
        gc.collect()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return torch.cuda.memory_allocated(), total - free

    ours(seed=1)
    before = used()
    for seed in range(1000):
        x = ours(seed=seed % 5)
    del x
    assert used() == before
    assert torch.equal(ours(seed=0), first)


@pytest.mark.parametrize("backend", BACKENDS)
def test_segments_progress_and_cancel(on_gpu, backend):
    needs(backend)
    ours = compiled(on_gpu, backend, plan="-.." * 30)
    whole = ours(batch_size=2, seed=4)
    for k in (1, 7, 90):
        run = ours.start(batch_size=2, seed=4)
        while run.i < 90:
            run.segment(k)
        assert torch.equal(run.x, whole)
    seen = []
    assert torch.equal(ours(batch_size=2, seed=4, on_step=lambda *at: seen.append(at)), whole)
    assert seen == [(i, 90) for i in range(90)]

    long = ours.with_plan("-.." * 300)
    run = long.start(batch_size=2, seed=4)
    at_cancel = []

    def stop(i, n):
        if i == 20:
            run.cancel()
            at_cancel.append(run.reached)

    with pytest.raises(RuntimeError, match="cancelled"):
        run.watch(stop)
    torch.cuda.synchronize()
    # on_step(20) may come late, but after the word has arrived one more step is the most.
    assert 21 <= run.reached <= at_cancel[0] + 2


def test_two_samplers_on_two_streams(on_gpu):
    samplers = [compiled(on_gpu, b) for b in BACKENDS if b == "host" or not native.reason()] * 2
    samplers = [sampler.with_plan("-.." * 20) for sampler in samplers]
    samplers += [compiled(on_gpu, "host", plan="-.." * 20)]
    expected = samplers[0](batch_size=4, seed=2)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in samplers]
    for _ in range(5):
        found = []
        for sampler, stream in zip(samplers, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(sampler(batch_size=4, seed=2))
        torch.cuda.synchronize()
        for x in found:
            assert torch.equal(x, expected)


def test_products_of_two_captures_side_by_side():
    """Few rows and a long sum, which cuBLAS splits over memory that torch keeps by stream."""
    device = torch.device("cuda", torch.cuda.current_device())
    x = torch.randn(2, 16, 8192, device=device, dtype=torch.float16)
    w = torch.randn(8192, 64, device=device, dtype=torch.float16)
    out = torch.empty(2, 16, 64, device=device, dtype=torch.float16)
    graphs = [
        capture("Dash", lambda i=i: torch.mm(x[i], w, out=out[i]), None, device) for i in range(2)
    ]
    for graph in graphs:
        graph.instantiate()
        graph.replay()
    torch.cuda.synchronize()
    expected = out.clone()
    streams = [torch.cuda.Stream() for _ in graphs]
    wrongs = torch.zeros(2, dtype=torch.int64, device=device)
    torch.cuda.synchronize()
    for _ in range(2000):
        for i, (graph, stream) in enumerate(zip(graphs, streams, strict=True)):
            with torch.cuda.stream(stream):
                graph.replay()
                wrongs[i] += (out[i] != expected[i]).sum()
    torch.cuda.synchronize()
    assert wrongs.tolist() == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_sampler_in_two_threads(on_gpu, backend):
    needs(backend)
    ours = compiled(on_gpu, backend)
    expected = [ours(batch_size=2, seed=seed) for seed in range(4)]
    found = [[] for _ in range(4)]

    def sample(seed):
        with torch.cuda.stream(torch.cuda.Stream()):
            found[seed] = [ours(batch_size=2, seed=seed) for _ in range(20)]
            torch.cuda.current_stream().synchronize()

    threads = [threading.Thread(target=sample, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for images, x in zip(found, expected, strict=True):
        assert len(images) == 20
        assert all(torch.equal(image, x) for image in images)


def test_auto_picks_a_captured_backend(on_gpu):
    ours = compiled(on_gpu, "auto")
    assert torch.equal(ours(batch_size=2, seed=3), by_hand(ours, 2, seed=3))
    report = ours.report(measure=True)
    assert report.backend in BACKENDS, report.why
    assert report.graph_bytes > 0
    assert report.dot_speed > 0


def test_a_model_that_waits_or_draws_is_refused():
    class Waits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, device="cuda"))

        def forward(self, x, t):
            return self.weight * x * float(t)

    class Draws(Waits):
        def forward(self, x, t):
            return self.weight * x + torch.randn_like(x)

    here = torch.cuda.current_stream()
    for model, message in ((Waits(), "cannot be captured"), (Draws(), "random numbers")):
        host = morse_engine.compile(model, plan="---", backend="host", shape=(3, 8, 8))
        with pytest.raises(RuntimeError, match=f"Dash step.*{message}"):
            host()
        # What a failed capture leaves behind in torch 2.11, before another capture can mend it.
        assert torch.cuda.current_stream() == here
        assert torch.isfinite(torch.randn(8, device="cuda")).all()
        assert not torch.cuda.is_current_stream_capturing()
    del host, model
    gc.collect()
    block = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    reserved = torch.cuda.memory_reserved()
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved - (1 << 28), "the allocator gives back"


@pytest.mark.parametrize("backend", BACKENDS)
def test_settings_and_autocast(backend):
    needs(backend)
    unet = tiny_text_unet().cuda()
    config = LoraConfig(target_modules=["to_q", "to_v"], init_lora_weights=False)
    unet.add_adapter(config, "a")
    call = {name: value.cuda() for name, value in text_cond(2).items()}
    ours = morse_engine.compile(unet.eval(), plan="---", backend=backend)
    with torch.autocast("cuda", torch.float16):
        first = ours(batch_size=2, seed=1, **call)
    torch.cuda.empty_cache()
    assert torch.equal(ours(batch_size=2, seed=1, **call), first)
    assert torch.equal(first, by_hand(ours, 2, seed=1, **call))
    unet.set_adapters(["a"], [0.1])
    changed = ours(batch_size=2, seed=1, **call)
    assert torch.equal(changed, by_hand(ours, 2, seed=1, **call))
    assert not torch.equal(changed, first)
    assert "scaling was" in ours.report().recaptured_because


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_changed_in_place_and_moved(on_gpu, backend):
    needs(backend)
    unet = tiny_unet(in_channels=3, out_channels=3, sample_size=32).cuda()
    dot = randomised(Dot(unet))
    ours = compiled((unet, dot), backend, merge_dot=False)
    ours(seed=1)
    with torch.no_grad():
        dot.gains.bias.add_(0.1)
        unet.conv_out.weight.mul_(0.5)
    assert torch.equal(ours(seed=1), by_hand(ours, 1, seed=1))
    assert ours.report().captures == 1
    unet.cpu()
    unet.cuda()
    assert torch.equal(ours(seed=1), by_hand(ours, 1, seed=1))
    assert ours.report().captures == 2
    assert "was moved" in ours.report().recaptured_because


@pytest.mark.slow
def test_inductor(on_gpu):
    ours = compiled(on_gpu, "host", inductor=True)
    expected = compiled(on_gpu, "eager")(batch_size=2, seed=3)
    assert_close("steps", ours(batch_size=2, seed=3), expected)
