"""The attack removes the noise of torch's generator and hands on a clean update; ChaCha20 withstands."""

from dataclasses import replace

import pytest
import torch

from attacks.combined.auto import Auto, AutoConfig
from attacks.combined.noise_recovery import NoiseRecovery, NoiseRecoveryConfig
from fedsim.core import seeding
from fedsim.core.errors import FedsimError, NotApplicable
from fedsim.core.types import MethodDescription, Reconstruction, WireEntry
from fedsim.core.types.effects import AddedNoise, Clipped, Noise, PrivateNoise
from fedsim.federation.client import local_training
from fedsim.scenario import world as worlds
from fedsim.threat.observe import observe
from fedsim.threat.victim import Victim
from tests.attacks.solving import sending
from tests.federating import scenario

KNOWS = ("labels", "batch-size", "dropout-rates", "input-statistics", "defenses")


@pytest.fixture
def seen():
    """The observation of one digit's noisy update, and the digit."""

    def build(generator="torch", name="local-dp", width=400):
        world = worlds.build(
            scenario(
                model={"name": "mlp", "width": width, "depth": 2, "dropout": 0.0},
                partition={"scheme": "resampled", "examples_per_client": 1},
                federation={"rounds": 1},
                defenses=[{"name": name, "noise_multiplier": 4.0, "generator": generator}],
            )
        )
        received = world.models.first_weights
        update, truth = local_training(world, received, 1, 0)
        return observe(Victim(world, WireEntry(1, 0, received, update), truth), KNOWS), truth

    return build


def inputs_of(truth):
    return truth.original_batches[0].inputs


def attack(**settings):
    return NoiseRecovery(NoiseRecoveryConfig(attack="closed-form-linear", most_seeds=0, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local-dp", "dp-sgd"])
def test_the_picture_comes_back_behind_torchs_noise(seen, name):
    observation, truth = seen(name=name)
    guess = attack()(observation, seeding.generator(1, "attack"))
    assert "MT19937" in guess.notes[0]
    assert guess.diagnostics["rank"] == 19937
    error = (guess.inputs - inputs_of(truth)).abs().max()
    assert float(error) < 0.05


@pytest.mark.slow
def test_chacha20_withstands_and_the_noisy_update_is_attacked(seen):
    observation, truth = seen("chacha20")
    guess = attack(seconds=20.0)(observation, seeding.generator(1, "attack"))
    assert "the noise was not computed" in guess.notes[0]
    assert float((guess.inputs - inputs_of(truth)).abs().max()) > 0.3


@pytest.mark.slow
def test_auto_removes_the_noise_first(seen):
    observation, truth = seen()
    guess = Auto(AutoConfig(max_iterations=20, mask_iterations=5))(observation, seeding.generator(1, "attack"))
    assert float((guess.inputs - inputs_of(truth)).abs().max()) < 0.05
    assert any("noise-recovery" in note for note in guess.notes)


@pytest.fixture
def handed_on(monkeypatch):
    """The observations that the inner attack gets; its guess explains them."""
    kept = []

    class Inner:
        name = "inner"

        def __call__(self, observation, generator, on_step):
            kept.append(observation)
            return Reconstruction(torch.zeros(1, 1, 8, 8), torch.zeros(1).long(), (), 1e-4, 0, 0, (), "given")

    monkeypatch.setattr("attacks.combined.noise_recovery.inner_attack", lambda *_: Inner())
    return kept


def with_seeded_noise(observation, other_source=(), clean=None):
    """Return the observation of an update with noise of seed 8, or of a large seed in the named tensors."""
    usual, other = torch.Generator().manual_seed(8), torch.Generator().manual_seed(8_000_009)
    tensors = {
        name: (clean[name] if clean else 0.0)
        + 4.0 * torch.empty_like(tensor).normal_(generator=other if name in other_source else usual)
        for name, tensor in observation.update.tensors.items()
    }
    return sending(observation, tensors)


def test_a_clean_update_is_handed_on_as_clean(seen, handed_on):
    observation = with_seeded_noise(seen()[0])
    guess = NoiseRecovery(NoiseRecoveryConfig(most_seeds=10))(observation, seeding.generator(1, "attack"))
    (clean,) = handed_on
    assert not clean.effects(Noise)
    assert clean.effects(Clipped) == observation.effects(Clipped)
    assert max(float(t.abs().max()) for t in clean.update.tensors.values()) < 1e-5
    assert guess.has_exact_inputs
    assert guess.diagnostics["cleaned_fraction"] == 1.0


def error_after_recovery(observation, handed_on):
    """Return the largest error that is left of an update with noise of deviation 4."""
    generator = torch.Generator().manual_seed(31)
    clean = {n: 0.5 * torch.randn(t.shape, generator=generator) for n, t in observation.update.tensors.items()}
    noisy = with_seeded_noise(observation, clean=clean)
    NoiseRecovery(NoiseRecoveryConfig(most_seeds=10))(noisy, seeding.generator(1, "attack"))
    (cleaned,) = handed_on
    return max(float((cleaned.update.tensors[name] - tensor).abs().max()) for name, tensor in clean.items())


def test_noise_is_subtracted_at_the_deviation_that_the_private_defense_states(seen, handed_on):
    observation, _ = seen()
    other = MethodDescription("gradient-noise", (AddedNoise("gaussian", 0.3),))
    known = replace(observation, known_methods=(other, *observation.known_methods))
    assert error_after_recovery(known, handed_on) < 1e-5


def test_without_a_single_stated_deviation_it_is_measured(seen, handed_on):
    observation, _ = seen()
    (private,) = observation.effects(PrivateNoise)
    unstated = (replace(private, deviation=None), AddedNoise("gaussian", 40.0))
    for effects in (unstated, (replace(private, deviation=40.0), private)):
        known = MethodDescription("local-dp", effects)
        assert 1e-4 < error_after_recovery(replace(observation, known_methods=(known,)), handed_on) < 0.05
        handed_on.clear()


def test_an_update_that_is_cleaned_in_part_is_handed_on_as_noisy(seen, handed_on):
    observation = with_seeded_noise(seen()[0], other_source=["7.weight"])
    guess = NoiseRecovery(NoiseRecoveryConfig(most_seeds=10))(observation, seeding.generator(1, "attack"))
    (partly,) = handed_on
    assert [type(effect) for effect in partly.effects(Noise)] == [type(e) for e in observation.effects(Noise)]
    assert partly.effects(PrivateNoise)[0].generator == "unpredictable"
    cleaned, received = partly.update.tensors, observation.update.tensors
    assert torch.equal(cleaned["7.weight"], received["7.weight"])
    assert all(float(cleaned[name].abs().max()) < 1e-5 for name in cleaned if name != "7.weight")
    assert not guess.has_exact_inputs
    assert 0.9 < guess.diagnostics["cleaned_fraction"] < 1.0
    assert "% of the values is computable" in guess.notes[0]


def test_a_generator_that_is_taken_as_unpredictable_is_left_alone(seen):
    observation, _ = seen("unpredictable")
    assert not attack().fits(observation).holds
    with pytest.raises(NotApplicable, match="generator"):
        attack()(observation, seeding.generator(1, "attack"))


def test_hidden_tensors_unknown_defenses_and_the_attack_itself_are_refused(seen):
    observation, _ = seen()
    assert attack().fits(observation).holds
    assert "hidden" in str(attack().not_applicable(replace(observation, hidden_parameters=frozenset({"x"}))))
    assert "no defense is known" in str(attack().not_applicable(replace(observation, known_methods=())))
    with pytest.raises((NotApplicable, FedsimError)):
        NoiseRecovery(NoiseRecoveryConfig(attack="noise-recovery"))(observation, seeding.generator(1, "attack"))


def test_the_description_of_a_defense_says_its_generator(seen):
    observation, _ = seen("chacha20")
    (noise,) = observation.effects(PrivateNoise)
    assert (noise.generator, noise.multiplier) == ("chacha20", 4.0)


def test_noise_of_chacha20_follows_from_the_seed_and_differs_from_torchs(seen):
    first, again, other = (seen(generator)[0].update.tensors for generator in ("chacha20", "chacha20", "torch"))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])
