from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attacks.batch_separation.cocktail_party import log_cosh, whitening_of
from tests.attacks.solving import assert_refused, network, psnr_of, resending, solve, toy, without_information
from tests.federating import watched

NAME = "cocktail-party"
MNIST = {"name": "mnist5k", "train": 400, "test": 10}
INDEPENDENT = {
    "total_variation": 0.0,
    "decorrelation": 0.1,
    "max_iterations": 400,
}  # for pixels that know nothing of their neighbours


def dense(pixels: int, *, bias: bool = True, rate: float = 0.0, width: int = 64) -> nn.Module:
    return network(pixels, width, bias=bias, rates=(rate, None))


@pytest.fixture
def mixed():
    """An observation of images of independent, heavy-tailed pixels, inside the range of a made-up normalisation."""

    def build(size: int, *, bias: bool = True):
        observation, _ = toy(dense(576, bias=bias), (1, 24, 24), size)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn((size, 1, 24, 24), generator=generator, dtype=torch.float64).pow(3)
        labels = torch.randint(4, (size,), generator=generator)
        seen = resending(observation, images, labels)
        return replace(seen, spec=replace(observation.spec, mean=(0.5,), std=(0.005,))), images

    return build


def signed_agreement(found, images):
    """Cosine of every image with the found one that is closest to it, after removing means; keeps the sign."""
    found, images = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (found, images))
    return (F.normalize(images) @ F.normalize(found).T).max(1).values


@pytest.mark.paper_step("cocktail-party", "scale and sign of each image")
@pytest.mark.parametrize(("bias", "factor"), [(True, 1.25), (False, 2.0)])
def test_independent_images_come_back_with_sign_and_about_their_scale(mixed, bias, factor):
    observation, images = mixed(6, bias=bias)
    guess = solve(NAME, observation, **INDEPENDENT)
    assert float(signed_agreement(guess.inputs, images).min()) > 0.97
    order = torch.cdist(images.flatten(1), guess.inputs.flatten(1)).argmin(1)
    ratio = guess.inputs[order].flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert 1 / factor < float(ratio.min()) <= float(ratio.max()) < factor


@pytest.mark.paper_step(
    "cocktail-party", "independent components by non-Gaussianity, decorrelation and total variation"
)
def test_as_good_as_fast_ica_of_scikit_learn(mixed):
    decomposition = pytest.importorskip("sklearn.decomposition")
    observation, images = mixed(8)
    guess = solve(NAME, observation, **INDEPENDENT)
    gradient = observation.update.tensors["1.weight"].numpy()
    other = decomposition.FastICA(8, fun="logcosh", whiten="unit-variance", random_state=0, max_iter=2000, tol=1e-8)
    sources = torch.from_numpy(other.fit_transform(gradient.T).T.copy())
    theirs = torch.maximum(signed_agreement(sources, images), signed_agreement(-sources, images))
    ours = signed_agreement(guess.inputs, images)
    assert float(ours.mean()) > float(theirs.mean()) - 0.01
    assert float(ours.min()) > 0.95


@pytest.mark.paper_step("cocktail-party", "whitened row space of the weight gradient")
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 6), columns=st.integers(20, 60), seed=st.integers(0, 100), repeats=st.booleans())
def test_whitening_gives_unit_covariance_and_drops_what_does_not_vary(rows, columns, seed, repeats):
    mixtures = torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mixtures = torch.cat([mixtures, mixtures.sum(0, keepdim=True) + 3.0]) if repeats else mixtures
    white = whitening_of(mixtures) @ (mixtures - mixtures.mean(1, keepdim=True))
    identity = torch.eye(rows, dtype=torch.float64)
    torch.testing.assert_close(white @ white.T / columns, identity, atol=1e-6, rtol=1e-6)


def test_log_cosh_does_not_overflow():
    values = torch.tensor([0.0, 0.5, -2.0, 1000.0], dtype=torch.float64)
    torch.testing.assert_close(log_cosh(values[:3]), values[:3].cosh().log())
    assert float(log_cosh(values)[3]) == pytest.approx(1000.0 - 0.6931471805599453)


@pytest.mark.parametrize("rate", [0.25, pytest.param(0.0, marks=pytest.mark.slow)])
def test_digits_come_back_coarsely_with_a_bias_whatever_is_dropped(rate):
    model = {"name": "mlp", "width": 64, "depth": 2, "bias": True, "dropout": rate}
    observation, truth, world = watched(data=MNIST, model=model, federation={"batch_size": 8}, knows=("batch-size",))
    observation = replace(observation, spec=world.data.dataset.spec)
    guess = solve(NAME, observation, max_iterations=400)
    scores = sorted(psnr_of(guess, truth, world.data.dataset.spec))
    grey = sorted(psnr_of(replace(guess, inputs=torch.zeros_like(guess.inputs)), truth, world.data.dataset.spec))
    assert scores[4] > 20 > grey[-1]
    assert guess.masks is None
    assert guess.diagnostics["numerical rank"] == 8


def test_it_says_so_when_there_is_nothing_to_unmix(
    mixed,
):
    observation = without_information(mixed(4)[0])
    guess = solve(NAME, observation)
    assert guess.stop_reason.startswith("gave up: 4 directions hold")
    assert not len(guess.inputs)
    unknown = solve(NAME, replace(observation, batch_size=None, labels=None))
    assert "full rank" in unknown.stop_reason
    assert not len(unknown.inputs)


def test_an_example_without_a_trace_is_missing(mixed):
    observation, images = mixed(4)
    guess = solve(NAME, replace(observation, batch_size=5, labels=None), **INDEPENDENT)
    assert guess.inputs.shape[0] == len(guess.labels) == 4
    assert float(signed_agreement(guess.inputs, images).min()) > 0.95


def test_refuses_with_the_reason():
    cases = {
        "closed-form-linear": toy(dense(16), (1, 4, 4), 1)[0],
        "no linear layer sees": watched(model={"name": "convnet"}, federation={"batch_size": 2})[0],
        "3 local steps": replace(toy(dense(16), (1, 4, 4), 2)[0], local_steps=3),
    }
    assert_refused(NAME, cases)
