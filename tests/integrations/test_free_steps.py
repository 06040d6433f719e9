"""Free steps of a run that a diffusers scheduler makes: which calls its lines go through."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from morse_engine import Plan, SolverTable
from morse_engine.integrations.free_steps import FreeSteps
from morse_engine.integrations.tables import Tables


@pytest.mark.parametrize(
    ("kind", "as_read", "first_line"),
    [(DDPMScheduler, True, False), (DDIMScheduler, False, False), (DDIMScheduler, True, True)],
)
def test_a_later_begin_is_the_first_call(kind, as_read, first_line):
    """Where noise may be added no line goes through the first two calls of a run. A step with
    options of the host's is not what a table says, so it may add some."""
    inner, plan = kind(), Plan("-:" * 5)
    inner.set_timesteps(len(plan))
    free = FreeSteps(inner, plan, ((-9.0,), (9.0,)))
    free.begin(Tables(), inner, 2, 0.0, as_read)
    table, said = SolverTable.from_scheduler(inner, len(plan)), []
    x = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    for i in range(2, 10, 2):
        said.append(table.clean(i, x, x * i))
        free.say(i, x, x * i)
        found = table.clean(i + 1, x, free.z(i + 1, x))
        has_line = len(said) > (1 if first_line else 2)
        line = said[-1] + 0.5 * (said[-1] - said[-2]) if has_line else said[-1]
        torch.testing.assert_close(found, line.clamp(-9, 9), rtol=1e-4, atol=1e-4)
