"""The check of a step's noise: torch's generator is broken, ChaCha20 never is."""

import pytest
import torch

from fedsim.audit.noise_check import check_noise
from fedsim.core.errors import FedsimError
from fedsim.privacy.discrete_noise import add_discrete
from fedsim.privacy.noise_recovery.recovery import subtract_noise
from fedsim.privacy.noise_recovery.result import ComputedNoise, UnknownNoise
from fedsim.privacy.secure_noise import normal

SEEDED = """
import torch

def step():
    generator = torch.Generator().manual_seed({seed})
    update = 0.1 * torch.linspace(-1, 1, 600).reshape(20, 30)
    return {{"w": update + 0.5 * torch.empty(20, 30).normal_(generator=generator)}}
"""


def written(tmp_path, text):
    file = tmp_path / f"{tmp_path.name}.py"  # a name of its own: modules stay loaded
    file.write_text(text)
    return f"{file}:step"


def test_a_seeded_step_is_broken(tmp_path):
    found = check_noise(written(tmp_path, SEEDED.format(seed=1234)))
    assert isinstance(found, ComputedNoise)
    assert found.source == "seed 1234"


@pytest.mark.parametrize(
    "returned", ["3", "torch.ones(2)", "{'w': 1}", "({'w': torch.ones(9)},)", "({'w': torch.ones(9)}, '1')", "(1, 2.0)"]
)
def test_other_results_are_refused(tmp_path, returned):
    with pytest.raises(FedsimError, match="expected a dict of tensors"):
        check_noise(written(tmp_path, f"import torch\n\ndef step():\n    return {returned}\n"))


@pytest.mark.parametrize("deviation", ["0", "-1.0", "float('inf')", "float('nan')", "True"])
def test_a_deviation_that_is_no_positive_number_is_refused(tmp_path, deviation):
    step = f"import torch\n\ndef step():\n    return {{'w': torch.ones(20)}}, {deviation}\n"
    with pytest.raises(FedsimError, match="expected a finite number above 0"):
        check_noise(written(tmp_path, step))


def test_a_stated_deviation_is_used(tmp_path, monkeypatch):
    used = []

    def recovery(sent, *, deviation):
        used.append((sorted(sent), deviation))
        return UnknownNoise("not tried", 0.0), sent

    monkeypatch.setattr("fedsim.audit.noise_check.subtract_noise", recovery)
    plain = SEEDED.format(seed=1234)
    check_noise(written(tmp_path, plain.replace("(generator=generator)}", "(generator=generator)}, 0.5")))
    (tmp_path / "measured").mkdir()
    check_noise(written(tmp_path / "measured", plain))
    assert used == [(["w"], 0.5), (["w"], None)]


@pytest.mark.parametrize("sent", [{}, {"w": torch.zeros(50)}, {"w": torch.full((50,), torch.nan)}])
def test_nothing_to_look_at_is_no_verdict(sent):
    found, same = subtract_noise(sent)
    assert isinstance(found, UnknownNoise)
    assert same is sent


def test_a_correct_generator_is_never_called_broken_by_a_guessed_seed():
    for run in range(5):
        found, _ = subtract_noise({"w": normal(torch.empty(20 + run, 15)), "b": normal(torch.empty(9))}, 300, 0.0)
        assert isinstance(found, UnknownNoise)


@pytest.mark.slow
def test_a_correct_generator_is_never_called_broken_in_a_hundred_runs_of_the_whole_check():
    """Every tenth message is large enough for equations of full rank, which then contradict each other."""
    contradicted = 0
    for run in range(100):
        rows, deviation = (2 + run % 45, 200)[run % 10 == 0], (None, 2.0)[run // 10 % 2]
        shapes = {"w": (rows, 20), "b": (9,)}
        if run // 20 % 2:
            message = {name: add_discrete(torch.zeros(shape), 2.0) for name, shape in shapes.items()}
        else:
            message = {name: 2.0 * normal(torch.zeros(shape)) for name, shape in shapes.items()}
        found, sent = subtract_noise(message, 300, deviation=deviation)
        assert isinstance(found, UnknownNoise), f"run {run}: {found}"
        assert sent is message
        contradicted += "contradict" in found.reason
    assert contradicted == 10


@pytest.mark.slow
def test_numpys_state_is_found_at_the_stated_deviation(tmp_path):
    step = """
import numpy
import torch

def step():
    noise = numpy.random.RandomState([5, 1 << 31, 8]).normal(0.0, 0.7, (3, 4000))
    return {"w": torch.as_tensor(noise, dtype=torch.float32)}, 0.7
"""
    found = check_noise(written(tmp_path, step))
    assert isinstance(found, ComputedNoise)
    assert (found.generator, found.source) == ("MT19937 (numpy.random, legacy)", "state")


def test_the_update_comes_back_at_the_scale_of_what_was_sent():
    update = {"w": 0.02 * torch.randn(30, 40), "b": 0.02 * torch.randn(3)}
    generator = torch.Generator().manual_seed(99)
    sent = {n: t + 0.3 * torch.empty(t.shape).normal_(generator=generator) for n, t in update.items()}
    found, clean = subtract_noise(sent, most_seeds=100)
    assert isinstance(found, ComputedNoise)
    for name, tensor in update.items():
        torch.testing.assert_close(clean[name], tensor, rtol=0, atol=0.003)
