from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.malicious_server.robbing_the_fed import _quantiles
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.types import InputSpec, ThreatModel
from fedsim.scenario import world as worlds
from tests.attacks.malicious_server.servers import SHAPE, observed
from tests.attacks.solving import answer, attack_named, psnr_of, toy
from tests.federating import scenario, watched

NAME = "robbing-the-fed"
SPEC = InputSpec(SHAPE, 4, (0.5,) * 3, (0.2,) * 3)
FAR = 100.0  # random inputs leave the pixel range


def dense(rate: float) -> nn.Module:
    with seeding.isolate_randomness(2):
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.GELU(), nn.Dropout(rate), nn.Linear(20, 4))


def convolutional(rate: float) -> nn.Module:
    with seeding.isolate_randomness(2):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Dropout(rate), nn.Linear(16, 4))


def crafted(attack, model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(1000 + seed)
    public = torch.randn((500, *SHAPE), generator=generator, dtype=torch.float64)
    return attack.craft(model.double(), SPEC, public, generator)


def exact(guess, inputs: torch.Tensor) -> torch.Tensor:
    """Which of the inputs (N, *shape) are among the guesses, to 1e-8."""
    errors = (inputs[:, None] - guess.inputs[None]).abs().flatten(2).amax(2)
    return (errors < 1e-8).any(1)


def bins_of(model: nn.Module, inputs: torch.Tensor, variant: str, gain: float = 1000.0) -> list[int]:
    """The bin of every example by brute force, -1 when it lies in none."""
    with torch.no_grad():
        measured = model[0][1](model[0][0](inputs))  # type: ignore[index]
    found = []
    for row in measured.tolist():
        active = [i for i, z in enumerate(row) if (z > 0 if variant == "dense" else 0 < z < 1 / gain)]
        found.append(active[-1] if active else -1)
    return found


def alone(bins: list[int]) -> torch.Tensor:
    return torch.tensor([own >= 0 and bins.count(own) == 1 for own in bins])


@pytest.mark.paper_step("robbing-the-fed", "measurement: mean of the pixels or a cosine mode")
@pytest.mark.paper_step("robbing-the-fed", "examples from differences of neighbouring rows")
@settings(max_examples=40, deadline=None)
@given(
    bins=st.integers(2, 60),
    batch_size=st.integers(2, 24),
    seed=st.integers(0, 10_000),
    variant=st.sampled_from(["dense", "sparse"]),
    measurement=st.sampled_from(["mean", "dct"]),
    distribution=st.sampled_from(["normal", "laplace"]),
    build=st.sampled_from([dense, convolutional]),
    rate=st.sampled_from([0.0, 0.5]),
)
def test_recovers_exactly_the_examples_alone_in_their_bin(
    bins, batch_size, seed, variant, measurement, distribution, build, rate
):
    attack = attack_named(
        NAME, bins=bins, variant=variant, measurement=measurement, distribution=distribution, range_tolerance=FAR
    )
    model = crafted(attack, build(rate), seed)
    observation, truth = observed(model, batch_size, seed)
    guess = answer(attack, observation)
    inputs = truth.batches[0].inputs
    assert exact(guess, inputs).tolist() == alone(bins_of(model, inputs, variant)).tolist()
    assert len(guess.inputs) == len(guess.labels) <= len(inputs)
    assert not Counter(guess.labels.tolist()) - Counter(truth.batches[0].labels.tolist())


@pytest.mark.paper_step("robbing-the-fed", "imprint layer with ascending biases in front of the model")
def test_the_bins_are_equally_likely():
    attack = attack_named(NAME, bins=10)
    model = crafted(attack, dense(0.0))
    inputs = torch.randn((20_000, *SHAPE), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    counts = torch.tensor(bins_of(model, inputs, "dense")).bincount(minlength=10) / len(inputs)
    # Twenty thousand draws and bins that 500 examples placed: a tenth of a bin is about three standard errors.
    torch.testing.assert_close(counts, torch.full((10,), 0.1), atol=0.015, rtol=0)


@pytest.mark.paper_step("robbing-the-fed", "biases at quantiles of the measurement")
@pytest.mark.parametrize("distribution", ["normal", "laplace"])
def test_quantiles_agree_with_scipy(distribution):
    from scipy import stats

    law = stats.norm() if distribution == "normal" else stats.laplace(scale=2**-0.5)
    shares = torch.linspace(0, 1, 9, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    expected = torch.as_tensor(law.ppf(shares.numpy()))
    torch.testing.assert_close(_quantiles(distribution, 8), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("variant", ["dense", "sparse"])
def test_dropout_inside_the_block_loses_examples(variant):
    attack = attack_named(NAME, bins=200, variant=variant, range_tolerance=FAR)
    model = crafted(attack, dense(0.0))
    model[0].insert(3, nn.Dropout(0.5))  # type: ignore[index, operator]
    observation, truth = observed(model, 8)
    inputs, mask = truth.batches[0].inputs, truth.masks[0][0]
    places = bins_of(model, inputs, variant)
    single = alone(places)
    found = exact(answer(attack, observation), inputs)
    if variant == "sparse":
        kept = torch.tensor([bool(mask[i, place]) for i, place in enumerate(places)])
        assert found.tolist() == (single & kept).tolist()
    assert int(found.sum()) < int(single.sum())


def test_labels_follow_from_the_slope_of_the_loss():
    attack = attack_named(NAME, bins=400, range_tolerance=FAR)
    for knows in (("batch-size", "input-statistics", "labels"), ("batch-size", "input-statistics"), ()):
        observation, truth = observed(crafted(attack, dense(0.0)), 6, seed=4)
        observation = replace(
            observation,
            threat=ThreatModel(server="malicious", knows=knows),
            labels=observation.labels if "labels" in knows else None,
            batch_size=6 if "batch-size" in knows else None,
        )
        guess = answer(attack, observation)
        inputs, labels = truth.batches[0].inputs, truth.batches[0].labels
        assert exact(guess, inputs).all()
        order = torch.cdist(inputs.flatten(1), guess.inputs.flatten(1)).argmin(1)
        assert torch.equal(guess.labels[order], labels)
        assert guess.objective < 1e-12


@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize(
    "knows", [pytest.param((), marks=pytest.mark.slow), ("batch-size", "dropout-rates", "input-statistics")]
)
def test_real_images_come_back_through_any_dropout(model, rate, knows):
    settings_ = {"name": NAME, "bins": 256}
    observation, truth, world = watched(
        data={"name": "mnist5k", "train": 400, "test": 200},
        model={"name": model, "dropout": rate},
        federation={"batch_size": 16},
        threat={"server": "malicious"},
        attacks=[settings_],
        knows=knows,
    )
    guess = answer(attack_named(**settings_), observation)
    exactly = sum(psnr > 90 for psnr in psnr_of(guess, truth, world.data.dataset.spec))
    assert exactly == int(alone(bins_of(world.models.new(), truth.batches[0].inputs, "dense")).sum())
    assert exactly >= 8


@pytest.mark.paper_step("robbing-the-fed", "sparse variant, for several local steps")
@pytest.mark.parametrize("learning_rate", [0.001, 0.1])
def test_several_steps_show_what_entered_a_sparse_bin_alone(learning_rate):
    federation = {"algorithm": "fedavg", "local_steps": 3, "batch_size": 4}
    federation["optimizer"] = {"name": "sgd", "learning_rate": learning_rate}
    tables = {
        "data": {"name": "mnist5k", "train": 400, "test": 200},
        "federation": federation,
        "threat": {"server": "malicious"},
    }
    dense_, sparse = {"name": NAME}, {"name": NAME, "variant": "sparse"}
    with pytest.raises(NotApplicable, match="3 local steps, .* variant 'sparse' needs no differences"):
        answer(attack_named(**dense_), watched(**tables, attacks=[dense_])[0])
    observation, truth, world = watched(**tables, attacks=[sparse])
    guess = answer(attack_named(**sparse), observation)
    inputs = torch.cat([batch.inputs for batch in truth.batches])
    assert len(guess.inputs) == len(guess.labels) <= len(inputs) == 12
    errors = (inputs[:, None] - guess.inputs[None]).abs().flatten(2).amax(2).amin(1)
    single = alone(bins_of(world.models.new(), inputs, "sparse"))
    assert int(single.sum()) >= 8
    # A unit that one example moves may meet another one later, so some that begin alone may be lost.
    assert int((errors[single] < 1e-2).sum()) >= 0.8 * int(single.sum())


@pytest.mark.parametrize("variant", ["dense", "sparse"])
def test_the_gain_changes_the_gradient_and_not_the_outputs(variant):
    outputs, slopes = [], []
    for gain in (1.0, 50.0):
        attack = attack_named(NAME, bins=30, gain=gain, variant=variant, range_tolerance=FAR)
        observation, truth = observed(crafted(attack, dense(0.0)), 5)
        outputs.append(observation.model(truth.batches[0].inputs))
        slopes.append(observation.update.tensors["0.1.weight"])
        single = alone(bins_of(observation.model, truth.batches[0].inputs, variant, gain))
        assert exact(answer(attack, observation), truth.batches[0].inputs).tolist() == single.tolist()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(slopes[0] * 50.0, slopes[1])


def test_the_mean_of_a_round_is_a_batch_of_all_participants(tmp_path):
    from fedsim.experiment.runner import train
    from fedsim.threat.observe import observe
    from fedsim.threat.replay import replay
    from fedsim.threat.victim import Victim

    built = scenario(
        federation={"clients": 4, "batch_size": 2},
        threat={"server": "malicious", "view": "sum"},
        attacks=[{"name": NAME}],
    )
    world = worlds.build(built)
    (entry,) = train(world, lambda _round: None).entries
    truth = replay(world, entry).truth
    inputs = truth.batches[0].inputs
    attack = built.attacks[0].make("attack")
    guess = answer(attack, observe(Victim(world, entry, truth), built.threat.knows))
    errors = (inputs[:, None] - guess.inputs[None]).abs().flatten(2).amax(2).amin(1)
    single = alone(bins_of(world.models.new(), inputs, "dense"))
    assert len(inputs) == 8
    assert single.sum() >= 4
    assert (errors < 1e-2).tolist() == single.tolist()


def test_a_mixture_outside_the_pixel_range_is_dropped():
    settings_ = {"name": NAME, "bins": 2}
    tables = {"federation": {"batch_size": 12}, "threat": {"server": "malicious"}}
    observation, _, _ = watched(**tables, attacks=[settings_])
    guess = answer(attack_named(**settings_), observation)
    assert guess.diagnostics["bins hit"] == 2
    assert guess.diagnostics["mixtures dropped"] == 2
    assert guess.stop_reason.startswith("gave up")
    assert not len(guess.inputs)


def test_refuses_with_the_reason():
    attack = attack_named(NAME)
    honest, _ = toy(dense(0.0), SHAPE, 2)
    gradient = observed(crafted(attack, dense(0.0)), 2)[0]
    several = replace(gradient, local_steps=3)
    unchanged = replace(honest, threat=ThreatModel(server="malicious", knows=honest.threat.knows))
    for observation, reason in (
        (honest, "needs a malicious server"),
        (unchanged, "has no imprint"),
        (several, "3 local steps"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            answer(attack, observation)
    hidden, _, _ = watched(threat={"server": "malicious", "visible_parameters": ("1.*",)}, attacks=[{"name": NAME}])
    with pytest.raises(NotApplicable, match="does not see the gradient of its imprint layer '0.1'"):
        answer(attack, hidden)
    nothing = torch.zeros((0, *SHAPE))
    for public, reason in (
        (nothing, "test set of these data is the training set"),
        (torch.ones(9, *SHAPE), "is the same"),
    ):
        with pytest.raises(NotApplicable, match=reason):
            attack.craft(dense(0.0), SPEC, public, torch.Generator())
