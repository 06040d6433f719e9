"""A run in steps and in segments has the bits of the whole run."""

import threading

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

import morse_engine
from models import randomised, tiny_unet
from morse_engine import Dot

PLAN = "-..-.-."


@pytest.fixture(scope="module")
def models():
    unet = tiny_unet()
    return unet, randomised(Dot(unet))


@pytest.fixture(params=["eager", "host"])
def sampler(request, models):
    scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    return morse_engine.compile(
        *models, scheduler=scheduler, plan=PLAN, backend=request.param, shape=(1, 16, 16)
    )


def test_steps_and_segments_are_the_whole_run(sampler):
    whole = sampler(batch_size=2, seed=4)
    run = sampler.start(batch_size=2, seed=4)
    while run.i < len(run.plan):
        run.step()
    assert torch.equal(run.x, whole)
    run = sampler.start(batch_size=2, seed=4)
    assert [run.segment(3), run.segment(3), run.segment(3)] == [3, 6, 7]
    assert torch.equal(run.x, whole)
    run = sampler.start(batch_size=2, seed=4)
    assert (run.step(), run.segment(), run.reached) == (1, 7, 7)
    assert torch.equal(run.x, whole)


def test_x_on_the_way(sampler):
    seen = []
    run = sampler.start(seed=4)
    first = run.x
    run.step()
    assert not torch.equal(run.x, first)
    second = run.x
    run.watch(lambda i, n: seen.append((i, n, run.x)))
    assert [(i, n) for i, n, _ in seen] == [(i, 7) for i in range(1, 7)]
    assert torch.equal(seen[-1][2], sampler(seed=4))
    assert torch.equal(second, second.clone()), "a copy, not the memory of the run"


def test_reaching_a_step(sampler):
    run = sampler.start(batch_size=2, seed=4)
    for k in (1, 2, 5, 7):
        run.reach(k)
        assert k <= run.reached <= len(run.plan)
    assert torch.equal(run.x, sampler(batch_size=2, seed=4))
    run = sampler.start(batch_size=2, seed=4)
    run.reach(7, stop=lambda: run.i == 3)
    assert run.reached == 3


def test_a_run_that_is_over(sampler):
    run = sampler.start()
    run.segment()
    with pytest.raises(RuntimeError, match="all 7 steps"):
        run.step()
    with pytest.raises(ValueError, match="k=0: has to be at least 1"):
        sampler.start().segment(0)


def test_cancel_from_a_step(sampler):
    run = sampler.start(batch_size=2, seed=4)

    def on_step(i, n):
        if i == 2:
            run.cancel()

    with pytest.raises(RuntimeError, match="cancelled at step 3 of 7"):
        run.watch(on_step)
    three = sampler.start(batch_size=2, seed=4)
    three.segment(3)
    assert torch.equal(run.x if sampler.backend == "eager" else three.x, three.x)


def test_what_a_callback_raises_is_passed_on(sampler):
    class Stop(Exception):
        pass

    def stop(i, n):
        raise Stop

    with pytest.raises(Stop):
        sampler(on_step=stop)
    assert torch.equal(sampler(seed=4), sampler(seed=4)), "the next run is well"


def test_a_run_whose_memory_is_taken(models):
    host = morse_engine.compile(*models, plan=PLAN, backend="host")
    run = host.start(seed=1)
    run.step()
    host(seed=2)
    with pytest.raises(RuntimeError, match="lost its memory"):
        run.step()
    with pytest.raises(RuntimeError, match="lost its memory"):
        _ = run.x
    eager = morse_engine.compile(*models, plan=PLAN, backend="eager")
    first, second = eager.start(seed=1), eager.start(seed=2)
    first.step(), second.step()
    first.segment(), second.segment()
    assert torch.equal(first.x, eager(seed=1))
    assert torch.equal(second.x, eager(seed=2))


@pytest.mark.slow
def test_two_threads_use_one_sampler(sampler):
    expected = [sampler(seed=seed) for seed in range(4)]
    found = [None] * 4

    def sample(seed):
        for _ in range(3):
            found[seed] = sampler(seed=seed)

    threads = [threading.Thread(target=sample, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_with_plan_changes_plan_and_solver(models):
    host = morse_engine.compile(*models, plan=PLAN, backend="host")
    other = host.with_plan("-.-", DPMSolverMultistepScheduler())
    direct = morse_engine.compile(
        *models, plan="-.-", backend="host", scheduler=DPMSolverMultistepScheduler()
    )
    before = host(seed=3)
    assert torch.equal(other(seed=3), direct(seed=3))
    assert torch.equal(host(seed=3), before)
    assert str(host.plan) == PLAN
    with pytest.raises(ValueError, match="Dash"):
        host.with_plan(".-")
