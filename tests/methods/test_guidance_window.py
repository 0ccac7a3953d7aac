"""The option `window`: shares or a file, keys of before, guidance that acts nowhere else, the same law by other pushes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.oracles.smc import ddpm_samples, reweighted
from tests.oracles.toys import BIG, column_of, gmm3, seeded, total

from entoptic.configs import EnergyDps, KlscTwisted
from entoptic.errors import UserError
from entoptic.methods import METHODS
from entoptic.methods.contract import MethodConfig, config_identity, recorded_config
from entoptic.methods.guidance_window import shares_of, written
from entoptic.sampling.guidance import energy_dps
from entoptic.sampling.twisted_smc import twisted_smc

CONFIGS = (EnergyDps, KlscTwisted)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_without_a_window_has_the_key_of_before(kind: type[MethodConfig]) -> None:
    assert "window" not in config_identity(kind())
    assert "window" not in config_identity(kind(window="0-1"))  # type: ignore[call-arg]
    assert config_identity(kind(window="0.2-0.50"))["window"] == "0.2-0.5"  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["energydps", "klsc-twisted"])
def test_stored_configs_of_before_are_read(name: str) -> None:
    card = METHODS[name]
    assert recorded_config(card, {"steps": 20}) == card.config(steps=20)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_file_stands_for_the_window_that_it_holds(kind: type[MethodConfig], tmp_path: Path) -> None:
    file = tmp_path / "commitment.json"
    file.write_text(json.dumps({"window": [0.125, 0.6]}))
    config = kind(window=str(file))  # type: ignore[call-arg]
    assert config == kind(window="0.125-0.6")  # type: ignore[call-arg]
    assert str(tmp_path) not in str(config_identity(config))


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ("0.5", "two shares"), ("0.6-0.2", "from < to"), ("0.2-0.2", "from < to"), ("-1-0.5", "two shares"), ("0-2", "0 ≤ from"),
        ("a-b", "such as 0.12-0.6"), ("nan-1", "from < to"), ("nowhere.json", "there is no file"),
    ],
)  # fmt: skip
def test_no_window_is_refused_in_one_sentence(window: str, words: str) -> None:
    for kind in CONFIGS:
        with pytest.raises(UserError, match=words):
            kind(window=window)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"), ("{}", "holds no window"), ('{"window": null, "why_no_window": "only 20 % succeed"}', "only 20 %"),
        ('{"window": [1]}', "for a window"), ('{"window": ["a", 2]}', "for a window"), ('{"window": [0.9, 0.1]}', "from < to"),
    ],
)  # fmt: skip
def test_a_file_without_a_window_says_so(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        EnergyDps(window=str(file))


def test_shares_are_written_as_they_are_read() -> None:
    assert shares_of("") == (0.0, 1.0)
    assert written((0.0, 1.0)) == ""
    assert shares_of(written((0.12, 0.6))) == (0.12, 0.6)


def test_energydps_adds_gradients_inside_its_window_alone() -> None:
    def run(window: tuple[float, float]) -> tuple[torch.Tensor, int]:
        chains = energy_dps(gmm3(), total, math.inf, seeded(6), steps=20, window=window)
        return chains.x0, chains.calls["denoise_gradients"]

    whole, part, none = run((0.0, 1.0)), run((0.25, 0.5)), run((0.9, 0.901))
    assert (whole[1], part[1], none[1]) == (20, 5, 1)
    assert torch.equal(whole[0], energy_dps(gmm3(), total, math.inf, seeded(6), steps=20).x0)
    free = energy_dps(gmm3(), total, math.inf, seeded(6), steps=20, scale=0.0).x0
    assert float(part[0].sum()) > float(free.sum())
    assert float(part[0].sum()) < float(whole[0].sum())


def test_twisted_smc_samples_the_same_tilt_whatever_its_window() -> None:
    beta, steps = 1.0, 16
    x, _ = ddpm_samples(gmm3(), steps, 400_000, torch.Generator().manual_seed(1))
    log_z, log_z_se, _, _ = reweighted(x.flatten(), beta)
    sets = twisted_smc(gmm3(), total, beta, seeded(200), particles=16, steps=steps, window=(0.3, 0.7), batch=BIG)
    ratio = (column_of(sets, "log_z") - log_z).exp()
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * math.hypot(float(ratio.std()) / 200**0.5, log_z_se))
    whole = twisted_smc(gmm3(), total, beta, seeded(2), particles=16, steps=steps, batch=BIG)
    same = twisted_smc(gmm3(), total, beta, seeded(2), particles=16, steps=steps, window=(0.0, 1.0), batch=BIG)
    assert torch.equal(whole[0].states, same[0].states)
    assert not torch.equal(whole[0].states, sets[0].states)
