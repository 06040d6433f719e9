import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from morse_engine import Plan, SolverTable
from morse_engine.sampling import noise
from morse_engine.sampling.correction import FIRST, corrections
from morse_engine.sampling.loop import walk
from morse_engine.sampling.probe import Column
from morse_engine.sampling.solver import HISTORY

SHAPE = (1, 8, 8)
DPM = DPMSolverMultistepScheduler
SOLVERS = {
    "ddim": DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
    "ddim, clipped": DDIMScheduler(timestep_spacing="trailing"),
    "ddim, v": DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
    "euler": diffusers.EulerDiscreteScheduler(),
    "dpm": DPM(),
    "dpm of order 3": DPM(solver_order=3),
    "dpm, karras": DPM(use_karras_sigmas=True),
    "single": diffusers.DPMSolverSinglestepScheduler(),
    "unipc": diffusers.UniPCMultistepScheduler(),
}
PLANS = ("-:-::-:-", "-::-::-:", "-.:-:--:", "--:::-:-")


def model(x, t):
    return torch.tanh(0.5 * x + t / 2000)


def dot(x, t, x_s, z_s, *before):
    return 0.1 * x


def start():
    return noise.normal(range(2), noise.INITIAL, SHAPE).double()


def states(table, plan):
    """x before each step and after the last, and of each step its clean image and its m."""
    x = table.init_noise_sigma * start()
    xs = [x, *walk(model, dot, plan, table, start(), [0, 1])]
    clean, m, calls, z_s = [], [], [], None
    for i, symbol in enumerate(plan):
        row = table.rows[i]
        if symbol == ":":
            a, b = calls[-1], calls[max(0, len(calls) - 2)]
            f = (table.places[i] - table.places[a]) / (table.places[a] - table.places[b])
            line = clean[a] + (f * (clean[a] - clean[b]) if a != b else 0)
            low, high = table.clean_range
            clean.append(line.clamp(low[0], high[0]))
        else:
            scaled = table.scale_model_input(i, xs[i])
            if symbol == "-":
                z_s = model(scaled, table.timesteps[i])
            z = z_s if symbol == "-" else z_s + dot(scaled, table.timesteps[i], None, None)
            clean.append(table.clean(i, xs[i], z))
            calls.append(i)
        m.append(clean[-1].clamp(row[Column.LO], row[Column.HI]))
    return xs, clean, m


def redone(table, plan, i, xs, clean, m):
    """x after Dash step i, had the free steps before it lain between the two calls."""
    a = max(k for k in range(i) if plan.morse[k] != ":")
    p, share = table.places, FIRST if plan.morse[:i].count(":") == i - 1 else 1.0
    r = (p[i] - p[i - 1]) / (p[i - 1] - p[i - 2])
    error = share * (m[i] - (m[i - 1] + r * (m[i - 1] - m[i - 2])))
    x, history = xs[a + 1], m[a::-1]
    for j in range(a + 1, i):
        moved = m[j] + (p[j] - p[a]) / (p[i] - p[a]) * error
        u, v = table.rows[j, [Column.U, Column.V]].tolist()
        # What the table would clamp is not clamped: the rows are taken as linear.
        x, _ = unclamped(table).step(j, x, (moved - u * x) / v, history)
        history = [moved, *history]
    u, v = table.rows[i, [Column.U, Column.V]].tolist()
    return table.step(i, x, (clean[i] - u * x) / v, m[:i][::-1])[0]


def unclamped(table):
    rows = table.rows.clone()
    rows[:, Column.LO], rows[:, Column.HI] = -torch.inf, torch.inf
    return SolverTable(table.name, rows, table.timesteps, 1.0)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_dash_step_goes_on_as_if_the_free_steps_had_been_right(name, plan):
    plan = Plan(plan)
    table = SolverTable.for_calls(SOLVERS[name], len(plan))
    xs, clean, m = states(table, plan)
    behind = [i for i in range(1, len(plan)) if plan.morse[i - 1 : i + 1] == ":-"]
    assert list(corrections(table.rows, table.places, plan)) == behind
    moved = 0.0
    for i in behind:
        expected = redone(table, plan, i, xs, clean, m)
        torch.testing.assert_close(xs[i + 1], expected, rtol=1e-5, atol=1e-5)
        u, v = table.rows[i, [Column.U, Column.V]].tolist()
        as_it_was = table.step(i, xs[i], (clean[i] - u * xs[i]) / v, m[:i][::-1])[0]
        moved = max(moved, float((as_it_was - expected).abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_an_image_on_the_line_that_is_right(name):
    """Where the clean image goes straight nothing is corrected, but behind the first call."""
    plan = Plan("--:-::-")
    table = SolverTable.for_calls(SOLVERS[name], len(plan))
    p = table.places
    for i, (k, r) in corrections(table.rows, p, plan).items():
        m = 0.3 + 0.01 * p  # of all steps
        assert m[i] == pytest.approx(m[i - 1] + r * (m[i - 1] - m[i - 2]))
        assert k != 0


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(),
        diffusers.EulerAncestralDiscreteScheduler(),
        DPM(algorithm_type="sde-dpmsolver++"),
        DPM(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
        diffusers.DEISMultistepScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
    ],
    ids=lambda s: type(s).__name__,
)
def test_solvers_that_are_left_as_they_are(scheduler):
    """They add noise, or keep another estimate than the clean image."""
    plan = Plan("-:-:-:")
    table = SolverTable.for_calls(scheduler, len(plan))
    columns = [Column.A, Column.B, Column.C0, *HISTORY]
    assert torch.equal(table.for_plan(plan).rows[:, columns], table.rows[:, columns])


def test_nothing_else_is_touched():
    table = SolverTable.for_calls(SOLVERS["dpm"], 8)
    made = table.for_plan(Plan("-:-::--."))
    changed = (made.rows != table.rows)[:, [Column.A, Column.B, Column.C0, *HISTORY]]
    assert changed.any(1).tolist() == [False, False, True, False, False, True, False, False]
    assert not changed[:, :2].any()
    # Once: who is given a completed table completes it again.
    assert made.for_plan(Plan("-:-::--.")) is made
    assert table.for_plan(Plan("--------")) is table
    assert table.for_plan(Plan("-.:.:.:.")).rows[:, : Column.U].equal(table.rows[:, : Column.U])


def test_it_is_nearer_to_many_steps():
    """A perfect model of two bells: x after few Dash steps with free steps between."""
    means, width = torch.tensor([-0.6, 0.5], dtype=torch.float64), 0.3
    scheduler = SOLVERS["ddim"]
    levels = scheduler.alphas_cumprod.double()

    def perfect(x, t):
        alpha, sigma = levels[int(t)].sqrt(), (1 - levels[int(t)]).sqrt()
        spread = (alpha * width) ** 2 + sigma**2
        far = x[..., None] - alpha * means
        of_each = means + alpha * width**2 / spread * far
        clean = ((-0.5 * far**2 / spread).softmax(-1) * of_each).sum(-1)
        return (x - alpha * clean) / sigma

    def rms(plan, corrected=True):
        plan = Plan(plan)
        table = SolverTable.for_calls(scheduler, len(plan))
        if not corrected:  # DDIM's own rows, with what the line needs
            rows = table.rows.clone()
            made = table.for_plan(plan)
            rows[:, Column.U :] = made.rows[:, Column.U :]
            table = SolverTable(table.name, rows, table.timesteps, 1.0, plan=plan)
        *_, x = walk(perfect, None, plan, table, noises, range(64))
        return float((x - full).square().mean().sqrt())

    noises = noise.normal(range(64), noise.INITIAL, (1, 4, 4)).double()
    many = SolverTable.for_calls(scheduler, 500)
    *_, full = walk(perfect, None, Plan("-" * 500), many, noises, range(64))
    for dash in (6, 8, 12):
        assert rms("-:" * dash) < rms("-:" * dash, corrected=False) < rms("-" * dash)
