"""One model at one batch size, ready to be measured: its samplers, its steps, and its rival."""

import time
from collections.abc import Callable

import torch
from paper_models import PaperModel
from rows import Out

from morse_engine import engine, kernels
from morse_engine.dot import Dot
from morse_engine.engine import Sampler
from morse_engine.runtime.backends import unavailable
from morse_engine.sampling.plan import Plan
from morse_engine.system.timing import Call, Spread, in_turns_for

NOMINAL = "-..-..-..-.."
BUDGET = 10.0  # LSD
WARM_UP_S = 0.5  # an idle GPU has a slow clock
# Without a Dot all steps are Dash's: as many as fit in a second, within these bounds.
DASH_STEPS = (4, 10)


class Subject:
    """Models and conditioning of a job, and what is timed of them.

    Attributes:
        dot: None for a model that has no Dot.
        backends: those without the one-launch loop.
        has_loop: whether that is measured too.
        layout: memory format of Dash's weights, in words.
    """

    def __init__(self, out: Out, model: PaperModel, batch: int, device: torch.device):
        self.out, self.model, self.batch, self.device = out, model, batch, device
        cuda = device.type == "cuda"
        self.dtype = torch.float16 if cuda else torch.float32
        # For every variant alike: cuDNN tries its algorithms at the first call of a shape.
        torch.backends.cudnn.benchmark = cuda
        self.unet = model.build(device, self.dtype)
        self.layout = "contiguous"
        self.cond = model.cond(batch, device, self.dtype)
        self.kwargs = {"batch_size": batch, **self.cond}
        if model.guidance is not None:
            self.kwargs["guidance_scale"] = model.guidance
        self.shape = (self.unet.config.in_channels, *2 * (self.unet.config.sample_size,))
        rows = batch if model.guidance is None else 2 * batch
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(rows, *self.shape, generator=generator).to(device)
        if cuda:
            self._choose_layout()
        self.dot = self._make_dot()
        self.widths = "-".join(map(str, model.widths))
        self.backends = ["host", "eager"]
        if why := unavailable("device", device):
            out.note(f"device: {why}")
        self.has_loop = not (why or out.no_device)

    @torch.no_grad()
    def _choose_layout(self) -> None:
        """Contiguous or channels-last weights of Dash: the faster one as a captured forward."""
        t = torch.tensor(500, device=self.device)
        x = self.x.to(self.dtype)
        calls, kept = {}, []
        for name in ("contiguous", "channels_last"):
            self.unet.to(memory_format=memory_format(name))
            kept.append([weight.data for weight in self.unet.parameters()])  # the graph has them
            for _ in range(2):
                self.unet(x, t, **self.cond)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
                self.unet(x, t, **self.cond)
            calls[name] = Call(graph.replay, "gpu")
        warm_up(WARM_UP_S, calls, self.device)
        times = in_turns_for(1, calls, self.device)
        found = {name: Spread.of(ms) for name, ms in times.items()}
        for name, spread in found.items():
            self.out.row("step_ms", f"Dash forward alone, captured, {name}", spread)
        self.layout = min(found, key=lambda name: found[name].value)
        self.unet.to(memory_format=memory_format(self.layout))

    def _make_dot(self) -> Dot | None:
        try:
            return self.make_dot()
        except ValueError as error:
            self.out.note(f"N is not measured: {error}")
            return None

    def make_dot(self, **options) -> Dot:
        """A Dot of this Dash with random gains; options of `Dot`."""
        dot = Dot(self.unet, widths=self.model.widths, **options)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():  # an untrained Dot is zero
            noise = torch.randn(dot.gains.weight.shape, generator=generator)
            dot.gains.weight.copy_(0.02 * noise)
        return dot.eval()

    def compile(self, backend: str, *, plan: "str | Plan" = NOMINAL, **options) -> Sampler:
        plan = plan if self.dot is not None else "-" * len(plan)
        return engine.compile(self.unet, self.dot, plan=plan, backend=backend, **options)

    def run(self, sampler: Sampler):
        """A whole run, which ends when the device has been asked for it."""
        return sampler(**self.kwargs)

    def start(self, sampler: Sampler):
        return sampler.start(**self.kwargs)

    def step_calls(self, sampler: Sampler) -> tuple[Call, Call | None]:
        """Each captured step in a row, after a new start, so that they stay within the table."""
        dash, dot = self.start(sampler).both_steps()

        def call(step) -> Call:
            return Call(step, "gpu", prepare=lambda: self.start(sampler))

        return call(dash), call(dot) if dot is not None else None

    def start_call(self, sampler: Sampler) -> Call:
        """The start of a run: what is checked, drawn and written before its first step."""
        return Call(lambda: self.start(sampler))

    def segment_call(self, sampler: Sampler) -> Call:
        """All steps of a run, without its start and the copy of its result."""
        runs = []
        return Call(lambda: runs.pop().segment(), prepare=lambda: runs.append(self.start(sampler)))

    def eager_calls(self, sampler: Sampler) -> tuple[Call, Call | None]:
        """Dash and Dot as the eager loop calls them, without the solver, in a row."""
        models, x, cond = sampler.models, self.x, self.cond
        t, t_s = (torch.tensor(number, device=self.device) for number in (500, 600))

        def call(model, *inputs) -> Call:
            def function():
                with torch.no_grad(), kernels.references():
                    return model(x, *inputs, **cond)

            return Call(function, "gpu")

        dash = call(models.dash, t_s)
        if models.dot is None:
            return dash, None
        z = dash.function()
        return dash, call(models.dot, t, x, z, t_s, z, t_s)

    def diffusers_loop(self, unet: Callable, num_steps: int) -> Callable[[], torch.Tensor]:
        """A run as diffusers' pipelines make it: the scheduler's own `step` between the models."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(timestep_spacing="trailing")
        guidance, cond = self.model.guidance, self.cond
        noise = self.x[: self.batch].to(self.dtype)

        @torch.no_grad()
        def run():
            scheduler.set_timesteps(num_steps, device=self.device)
            x = noise * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                given = x if guidance is None else torch.cat([x, x])
                z = unet(scheduler.scale_model_input(given, t), t, return_dict=False, **cond)[0]
                if guidance is not None:
                    without, with_text = z.chunk(2)
                    z = without + guidance * (with_text - without)
                x = scheduler.step(z, t, x, return_dict=False)[0]
            return x

        return run


def warm_up(seconds: float, calls: dict[str, Call], device: torch.device) -> None:
    """Make the calls in turns for that long, untimed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for call in calls.values():
            call.ms(device)


def memory_format(name: str) -> torch.memory_format:
    return torch.channels_last if name == "channels_last" else torch.contiguous_format
