"""Noise schedules, against the schedulers of diffusers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from entoptic.errors import UserError
from entoptic.priors.prior import Level, ancestral, deterministic, generate
from entoptic.priors.schedule import Diffusion, Flow, read_bounds, read_schedule
from tiny_priors import close, diffusers, seeds


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_deterministic_steps_are_ddim(target: str) -> None:
    scheduler = diffusers.DDIMScheduler(
        prediction_type=target, clip_sample=False, timestep_spacing="trailing", beta_schedule="scaled_linear"
    )
    schedule, scale = read_schedule(scheduler), torch.linspace(0.2, 1.1, 48).reshape(1, 3, 4, 4)

    def net(x: Tensor) -> Tensor:  # close to what a trained network would put out, so that states stay of order one
        return scale * (x if target == "epsilon" else x.tanh())

    scheduler.set_timesteps(8)
    theirs = ours = torch.randn(2, 3, 4, 4, generator=seeds(0)[0])
    levels = schedule.levels(8)
    assert [level.time for level in levels[:-1]] == scheduler.timesteps.tolist()
    for time, t, s in zip(scheduler.timesteps, levels, levels[1:]):
        theirs = scheduler.step(net(theirs), time, theirs, eta=0.0).prev_sample
        step = deterministic(t, s)
        ours = step.from_x * ours + step.from_x0 * schedule.clean(ours, net(ours), t)
        close(ours, theirs, 2e-4 if target == "epsilon" else 1e-5)


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
def test_ancestral_steps_are_ddpm(target: str) -> None:
    scheduler = diffusers.DDPMScheduler(
        prediction_type=target, clip_sample=False, timestep_spacing="trailing", variance_type="fixed_small"
    )
    scheduler.set_timesteps(20)
    schedule = read_schedule(scheduler)
    levels = schedule.levels(20)
    x, output = (torch.randn(1, 3, 8, 8, generator=g) for g in seeds(1, 2))
    for i in (0, 7, 18, 19):  # the last is without noise
        theirs = scheduler.step(output, scheduler.timesteps[i], x, generator=seeds(3)[0]).prev_sample
        noise = torch.randn(x.shape, generator=seeds(3)[0])
        step = ancestral(levels[i], levels[i + 1])
        ours = step.from_x * x + step.from_x0 * schedule.clean(x, output, levels[i]) + step.sd * noise
        close(ours, theirs)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@torch.no_grad()
def test_deterministic_steps_are_the_flow_schedulers(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule = read_schedule(scheduler)
    assert schedule == Flow(shift)
    levels = schedule.levels(6)
    even = [level.sigma / (shift - (shift - 1) * level.sigma) for level in levels[:-1]]
    assert np.allclose(np.diff(even), np.diff(even)[0])
    scheduler.set_timesteps(sigmas=even)
    assert np.allclose([level.time for level in levels[:-1]], scheduler.timesteps)
    theirs = ours = torch.randn(2, 3, 4, 4, generator=seeds(0)[0])
    for time, t, s in zip(scheduler.timesteps, levels, levels[1:]):
        theirs = scheduler.step((2 * theirs).sin(), time, theirs).prev_sample
        step = deterministic(t, s)
        ours = step.from_x * ours + step.from_x0 * schedule.clean(ours, (2 * ours).sin(), t)
        close(ours, theirs, 1e-5)


@pytest.mark.parametrize("steps", [1, 3, 7, 250, 1000])
@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDPMScheduler(),
        diffusers.PNDMScheduler(beta_schedule="scaled_linear"),
        diffusers.EulerDiscreteScheduler(),
        diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_levels_fall_from_noise_to_clean(scheduler: Any, steps: int) -> None:
    schedule = read_schedule(scheduler)
    levels = schedule.levels(steps)
    if isinstance(schedule, Flow):
        assert schedule.map_levels(steps) == levels
    elif steps == len(schedule.kept):
        assert schedule.map_levels(steps) == levels, "all that there are"
    assert len(levels) == steps + 1
    assert levels[-1] == Level(0.0, 1.0, 0.0)
    assert levels[0].alpha < 0.08
    for t, s in pairwise(levels):
        # Only a schedule that ends in pure noise has levels that are too noisy to be told apart.
        assert t.alpha < s.alpha or t.alpha == s.alpha == 2**-12
        assert t.sigma > s.sigma or t.alpha == 2**-12
        assert t.time >= s.time
        assert (
            t.alpha + t.sigma == pytest.approx(1)
            if isinstance(schedule, Flow)
            else t.alpha**2 + t.sigma**2 == pytest.approx(1)
        )
        assert np.isfinite([*ancestral(t, s), *deterministic(t, s)]).all()


VARIANCE_PRESERVING = {
    "linear": diffusers.DDPMScheduler(),
    "scaled linear": diffusers.PNDMScheduler(beta_schedule="scaled_linear"),
    "cosine": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "pure noise": diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
}


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_the_levels_of_the_map_are_even_in_log_snr(name: str) -> None:
    schedule = read_schedule(VARIANCE_PRESERVING[name])
    levels = schedule.map_levels(6)
    assert len(levels) == 7
    assert levels[-1] == Level(0.0, 1.0, 0.0)
    log_snr = np.log([level.alpha / level.sigma for level in levels[:-1]])
    assert (np.diff(log_snr) > 0).all()
    assert log_snr[0] == pytest.approx(max(np.log(max(schedule.kept[-1], 1e-9)) / 2, -np.log(160)), abs=0.4)
    assert log_snr[-1] == pytest.approx(np.log(10), abs=0.05)
    # Where noise is faint or nearly pure, times of the schedule are far apart in log(α/σ).
    assert np.allclose(np.diff(log_snr), np.diff(log_snr).mean(), atol=0.5)
    for steps in (1, 2, 3, 40, 999, 1000):
        times = [level.time for level in schedule.map_levels(steps)[:-1]]
        assert len(set(times)) == steps
        assert times == sorted(times, reverse=True)
        assert min(times) >= 0


def test_the_levels_of_the_map_stay_inside_a_short_schedule() -> None:
    schedule = Diffusion((0.99, 0.5, 0.1), "sample")
    assert [level.time for level in schedule.map_levels(3)] == [2, 1, 0, 0]
    assert [level.time for level in schedule.map_levels(1)] == [2, 0]
    with pytest.raises(UserError, match="1 to 3, got 4"):
        schedule.map_levels(4)
    with pytest.raises(UserError, match="1 to 3, got 0"):
        schedule.map_levels(0)


class _Gaussian:
    """N(0, sd²) in every position of the shape, by its exact denoiser at the levels of a schedule."""

    name, identity, bounds, conditions, device = "gaussian", "gaussian", None, 0, torch.device("cpu")

    def __init__(self, schedule: Diffusion, sd: list[float]) -> None:
        self.schedule, self.var = schedule, torch.tensor(sd, dtype=torch.float64).square().reshape(1, -1, 1, 1)
        self.shape, self.levels = (len(sd), 1, 1), schedule.levels

    def denoise(self, x: Tensor, level: Level, condition: Tensor | None = None) -> Tensor:
        return level.alpha * self.var / (level.alpha**2 * self.var + level.sigma**2) * x

    def decode(self, x0: Tensor) -> Tensor:
        return x0


class _ByMap(_Gaussian):
    def __init__(self, schedule: Diffusion, sd: list[float]) -> None:
        super().__init__(schedule, sd)
        self.map_levels = schedule.map_levels


@pytest.mark.parametrize("name", ["linear", "scaled linear", "cosine"])
def test_six_steps_keep_most_of_a_gaussians_variance(name: str) -> None:
    """The map of a Gaussian is linear, so one state tells the law: the share of variance that is left at sd 2 … 0.1."""
    schedule, sd = read_schedule(VARIANCE_PRESERVING[name]), [2.0, 1.0, 0.3, 0.1]
    one = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    left, evenly = (
        (generate(kind(schedule, sd), one, steps=6).flatten() / torch.tensor(sd)).square()
        for kind in (_ByMap, _Gaussian)
    )
    assert (left > torch.tensor([0.94, 0.86, 0.65, 0.36])).all()
    assert (left < 1.05).all()
    assert ((left - 1).abs() < (evenly - 1).abs()).all(), "in no direction worse than evenly spaced times"
    assert evenly[3] < 0.15, "else there was nothing to mend"


@pytest.mark.parametrize("target", ["epsilon", "v_prediction", "sample"])
def test_the_true_output_gives_back_the_picture(target: str) -> None:
    schedule, (x0, noise) = Diffusion((0.9, 0.5, 0.1), target), torch.randn(2, 5, generator=seeds(0)[0])
    for level in schedule.levels(3):
        x = level.alpha * x0 + level.sigma * noise
        output = {"epsilon": noise, "sample": x0, "v_prediction": level.alpha * noise - level.sigma * x0}[target]
        close(schedule.clean(x, output, level), x0, 1e-5)
        x = (1 - level.sigma) * x0 + level.sigma * noise
        close(Flow().clean(x, noise - x0, level), x0, 1e-5)


def test_schedules_that_do_not_fit() -> None:
    for scheduler, words in [
        (diffusers.EDMEulerScheduler(), "EDMEulerScheduler are not supported"),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "fixed shift"),
        (diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "ends in pure noise"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), "flow_prediction"),
    ]:
        with pytest.raises(UserError, match=words):
            read_schedule(scheduler)
    with pytest.raises(UserError, match="1 to 1000, got 1001"):
        read_schedule(diffusers.DDPMScheduler()).levels(1001)
    with pytest.raises(UserError, match="1 step or more"):
        Flow().levels(0)
    assert read_bounds(diffusers.DDPMScheduler()) == (-1.0, 1.0)
    assert read_bounds(diffusers.DDIMScheduler(clip_sample=False)) is None
    assert read_bounds(diffusers.EulerDiscreteScheduler()) is None
