"""Samples from an arm's trained denoiser, and their similarity to training images.

A sample is a copy if its distance to the nearest training image is less than half of its mean distance to the 50
nearest (after Carlini et al. 2023, arXiv 2301.13188). A planted image counts as extracted if a sample's root mean
square difference in pixels is below a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.errors import FedsimError, ScenarioError
from fedsim.core.hooks import GenerationInputs
from fedsim.core.registry import metric
from fedsim.core.types import Batch, Generated, PlantedImage
from fedsim.federation.journal import ServerLog
from fedsim.generation import sample
from fedsim.metrics.image import to_pixels
from fedsim.metrics.statistics import wilson
from fedsim.questions.generation.metrics import trace_exposure
from fedsim.questions.generation.sample_distance import sample_distance
from fedsim.questions.generation.settings import GenerationSettings
from fedsim.questions.generation.side_channels import (
    Answer,
    GeneratedTexts,
    ScoringOptions,
    about,
    answer_here,
    judge,
)
from fedsim.questions.generation.texts import (
    GenerationStudy,
    check_trained,
    generation_of,
    inquiries_of,
    trained_weights,
)
from fedsim.questions.generation.types import TraceQuestion
from fedsim.record import Finding, Interval, Role
from fedsim.scenario.world import World
from fedsim.threat.uses import count_training

_BATCH_SIZE = 64
_COARSE = 8  # pixels per side of the images that the Frechet distance compares
_LOSS_DRAWS = 16
_NEIGHBOURS = 50
_NEAR = 0.5
_SAME = 0.1  # root mean square difference in pixels below which a sample equals an image


def draws(settings: GenerationSettings) -> bool:
    """Return whether the scenario's decoder is a sampler of images, not a decoder of text."""
    return registry.get("component", settings.decoder.name).hook == "sampler"


def check(world: World) -> None:
    """Check before the first round that the sampler runs on this model.

    Raises:
        ScenarioError: it does not, or attacks on traces are requested; the message gives the reason.
    """
    settings = generation_of(world)
    check_trained(world)
    model = world.models.new()
    model.load_state_dict(dict(world.models.first_weights))
    try:
        (tried,) = _sample(world, model.eval(), 1)
    except FedsimError as error:
        raise ScenarioError(f"generation: {error}") from error
    if tried.ending == "failed":
        raise ScenarioError(f"generation: sampler '{settings.decoder.name}' draws nothing here: {tried.reason}")
    others = sorted({question for question, _ in inquiries_of(world)} - {"bits"})
    if others:
        raise ScenarioError(
            f"generation.attacks: question '{others[0]}' is about texts, and sampler '{settings.decoder.name}' draws "
            "images. Traces of images have the question 'bits', about the class: choose an attack such as "
            "'trace-figures', or remove generation.attacks; repeated training images are always measured."
        )


def draw(world: World, journal: ServerLog, answer: Answer = answer_here, salt: bytes = b"") -> GenerationStudy:
    """Sample from the trained model, run every attack on the traces, and return samples and findings.

    Args:
        world: a scenario with a sampler, accepted by `check`.
        journal: journal of the whole training.
        answer: runs an attack on a case, in this process or in a subprocess.
        salt: the run's salt; empty without a salt.

    Raises:
        FedsimError: the sampler failed.
    """
    model = world.models.new().eval()
    model.load_state_dict(dict(trained_weights(world, journal)))
    generated = _sample(world, model, generation_of(world).samples)
    samples = torch.stack(
        [picture.x for picture in generated if picture.ending == "finished" and picture.x is not None]
    )
    train, scoring = world.data.dataset.train, world.scenario.scoring
    judging = ScoringOptions(world.scenario.seed, scoring.confidence, answer, (train.inputs, train.labels), salt)
    findings = (*_findings(world, journal, model, samples), *_bits(world, generated, judging))
    return GenerationStudy(generated, findings)


def _bits(world: World, generated: Sequence[Generated], judging: ScoringOptions) -> Iterator[Finding]:
    """Yield what each attack infers about the class of an image from the trace of its sampling."""
    count, classes = len(generated), world.data.dataset.spec.classes
    classes_of_images = tuple(number % classes for number in range(count))  # as `_sample` requests them
    pictures = GeneratedTexts("bits", tuple(generated), classes_of_images, (False,) * count)
    for _, inquiry in inquiries_of(world):
        yield judge(pictures, inquiry, judging)


def _sample(world: World, model: nn.Module, count: int) -> list[Generated]:
    """Return samples, with class labels in turn."""
    spec, seed = world.data.dataset.spec, world.scenario.seed
    condition = GenerationInputs(((),) * count, {"class": torch.arange(count) % spec.classes})
    sources = seeding.generators(seed, "generation samples", [(number,) for number in range(count)])
    sampler = generation_of(world).decoder.make("component")
    return sample(sampler, model, condition, spec.shape, sources, batch_size=_BATCH_SIZE)


def _findings(world: World, journal: ServerLog, model: nn.Module, samples: Tensor) -> Iterator[Finding]:
    dataset = world.data.dataset
    confidence = world.scenario.scoring.confidence
    uses = count_training(world, journal.rounds)
    known, pictures = dataset.train.inputs[uses > 0], to_pixels(samples, dataset.spec)
    tests = to_pixels(dataset.test.inputs, dataset.spec)
    coarse = [F.adaptive_avg_pool2d(images, _COARSE).flatten(1) for images in (pictures, tests)]
    distance = sample_distance(coarse[0], coarse[1])
    yield _finding(
        "drawn", "8 x 8 coarse pixels", "sample_distance", Interval(value=distance, low=None, high=None, n=len(samples))
    )
    pixels = to_pixels(known, dataset.spec)
    as_new = copied_share(tests, pixels, confidence)
    copied = copied_share(pictures, pixels, confidence)
    yield _finding("drawn", "samples beside training images", "copied_share", copied, chance_level=as_new.value)
    for repetitions in sorted({len(canary.examples) for canary in dataset.planted_images}):
        alike = [canary for canary in dataset.planted_images if len(canary.examples) == repetitions]
        yield from _canaries(world, model, pictures, alike, repetitions)


def _canaries(
    world: World, model: nn.Module, pictures: Tensor, alike: list[PlantedImage], repetitions: int
) -> Iterator[Finding]:
    """Yield whether canaries with equal repetitions were sampled, and their loss rank among controls."""
    spec, scoring = world.data.dataset.spec, world.scenario.scoring
    role: Role = "attack" if repetitions else "negative-control"
    is_drawn = [is_among(pictures, to_pixels(canary.image[None], spec)[0]) for canary in alike]
    label = f"{repetitions} {'copy' if repetitions == 1 else 'copies'}"
    share = image_extraction_rate(is_drawn, scoring.confidence)
    yield _finding(
        "planted", f"canaries of {label}, drawn", "image_extraction_rate", share, role=role, chance_level=0.0
    )
    scores = np.array([_scores(world, model, canary, number) for number, canary in enumerate(alike)])
    source = np.random.default_rng(seeding.derive(world.scenario.seed, f"canaries {repetitions}"))
    exposure, chance = trace_exposure(scores, source, scoring.confidence)
    title = f"canaries of {label}, denoising loss"
    yield _finding("planted", title, "trace_exposure", exposure, role=role, chance_level=chance, view="the model")


@torch.no_grad()
def _scores(world: World, model: nn.Module, canary: PlantedImage, number: int) -> list[float]:
    """Return the negative summed denoising loss of a canary and of its controls, under the same draws."""
    images = torch.cat((canary.image[None], canary.left_out))
    batch = Batch(images, torch.full((len(images),), canary.label))
    source = seeding.generator(world.scenario.seed, "canary loss", number)
    total = torch.zeros(len(images), dtype=torch.double)
    for _ in range(_LOSS_DRAWS):
        shared = world.task.named_draws(batch.select(torch.zeros(1, dtype=torch.long)), source)
        shared_draws = {name: tensor.expand(len(images), *tensor.shape[1:]) for name, tensor in shared.items()}
        total += world.task.losses(*world.task.answer(model, batch, shared_draws))
    return (-total).tolist()


def _finding(
    question: TraceQuestion, label: str, metric: str, value: Interval, *, view: str = "outputs", **more: Any
) -> Finding:
    scope = about(question, view)
    return Finding(question="generation", label=label, scope=scope, metric=metric, value=value, **more)


@metric(
    "copied_share",
    title="copied",
    summary="share of the samples that are less than half as far from a training image as from its 50 neighbours",
    related="2301.13188",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=1,
    limits=(0.0, 1.0),
)
def copied_share(samples: Tensor, images: Tensor, confidence: float = 0.95) -> Interval:
    """Return the share of samples (N, C, H, W) that are copies of an image, with Wilson's interval."""
    ratios = nearness(samples, images)[0]
    return wilson(int((ratios < _NEAR).sum()), len(ratios), confidence)


@metric(
    "image_extraction_rate",
    title="drawn",
    summary="share of the planted images that a sample equals, within 0.1 root mean square of pixels",
    over="finding",
    is_success_count=True,
    form="percent",
    digits=0,
    limits=(0.0, 1.0),
)
def image_extraction_rate(is_drawn: Sequence[bool], confidence: float = 0.95) -> Interval:
    """Return the share with Wilson's interval, n the number of planted images."""
    return wilson(sum(is_drawn), len(is_drawn), confidence)


def nearness(samples: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return per sample the nearest distance over the mean distance of the 50 nearest images, and the nearest index.

    Repeated images count once.
    """
    flat = images.flatten(1).unique(dim=0)
    distances = torch.cdist(samples.flatten(1).double(), flat.double())
    nearest = distances.topk(min(_NEIGHBOURS, len(flat)), largest=False).values
    place = torch.cdist(samples.flatten(1).double(), images.flatten(1).double()).argmin(1)
    return nearest[:, 0] / nearest.mean(1).clamp_min(1e-12), place


def is_among(samples: Tensor, image: Tensor) -> bool:
    """Return whether any sample equals an image, both in pixels."""
    return bool(((samples - image).square().flatten(1).mean(1).sqrt() < _SAME).any())
