"""Continuous speculative decoding beside drawing patch by patch: acceptance, passes, seconds, and how near samples are.

The models are those of `fedsim bench model digits-patches` and `digits-patches-draft`, or with `--model` those of
photographs. Seconds are of the processor,
and all ways take turns image by image, on one thread. Distances are of 64 features of a small classifier, and of
EfficientNet-Lite0 where its extra is installed, which reads a digit as three equal channels.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._drawn import Features, classifier_features, efficientnet_features, save_pictures  # noqa: E402
from benchmarks._rows import mean_in_words  # noqa: E402
from fedsim.bench.denoisers import RECIPES, trained  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.generation import sample  # noqa: E402
from fedsim.metrics.sample_distance import sample_distance  # noqa: E402

MODELS = {"digits-patches": "digits-unet", "photographs-patches": "photographs-unet"}
"""By name of the model, whose images its classifier knows."""
TARGET, DRAFT = "target", "draft"
PLAIN = "the model alone"
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    PLAIN: (TARGET, {"length": 0}),
    "the draft alone": (DRAFT, {"length": 0}),
    "drafts of 4": (TARGET, {"length": 4}),
    "drafts of 4, no prefill": (TARGET, {"length": 4, "prefill": 0.0}),
    "drafts of 4, prefill 15 %": (TARGET, {"length": 4, "prefill": 0.15}),
    "drafts of 8": (TARGET, {"length": 8}),
    "drafts of 4, noise not shared": (TARGET, {"length": 4, "is_aligned": False}),
    "drafts of 4, soft = 42": (TARGET, {"length": 4, "soft": 42.0}),
}


class Way(NamedTuple):
    """What a way of drawing came to: images, and of each its counts and its seconds."""

    images: Tensor
    drafted: Sequence[int]
    accepted: Sequence[int]
    passes: Sequence[int]
    seconds: Sequence[float]


def measure(
    ways: Mapping[str, tuple[nn.Module, Mapping[str, Any]]], shape: tuple[int, ...], count: int, has_classes: bool
) -> dict[str, Way]:
    """Draw images by every way, which take turns; of all classes where the models are told one."""
    method = registry.get("component", "continuous-speculative")
    samplers = {name: method.make(method.config.model_validate(dict(settings))) for name, (_, settings) in ways.items()}
    samples: dict[str, list[Any]] = {name: [] for name in ways}
    for number in range(count):
        for name, (model, _) in ways.items():
            given = {"class": torch.tensor([number % 10])} if has_classes else {}
            condition = Condition(((),), given)
            source = [seeding.generator(0, "drawing", number)]
            begin = time.process_time()
            (sampled,) = sample(samplers[name], model, condition, shape, source)
            samples[name].append((sampled, time.process_time() - begin))
    return {name: _way(timed_samples) for name, timed_samples in samples.items()}


def _way(timed_samples: Sequence[Any]) -> Way:
    series = [generated.trace.series() for generated, _ in timed_samples]
    sums = {key: [sum(counts[key]) for counts in series] for key in ("drafted", "accepted", "passes")}
    images = torch.stack([generated.x for generated, _ in timed_samples])
    return Way(images, sums["drafted"], sums["accepted"], sums["passes"], [seconds for _, seconds in timed_samples])


def _acceptance(way: Way) -> str:
    pairs = [(a / d) for a, d in zip(way.accepted, way.drafted, strict=True) if d]
    return mean_in_words(pairs, 2) if pairs else ""


def _ratio(way: Way, plain: Way) -> str:
    ratios = sorted(a / b for a, b in zip(plain.seconds, way.seconds, strict=True))
    quarter = len(ratios) // 4
    return f"{statistics.median(ratios):.2f} ({ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f})"


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--model", choices=sorted(MODELS), default="digits-patches", help="drafts are its draft's")
    parser.add_argument("--pictures", type=Path)
    chosen = parser.parse_args()
    target, draft = trained(chosen.model), trained(f"{chosen.model}-draft")
    models = {TARGET: target.model, DRAFT: draft.model}
    ways = {
        name: (models[model], {**settings, **({"draft": str(draft.folder)} if settings["length"] else {})})
        for name, (model, settings) in WAYS.items()
    }
    measured = measure(ways, target.data.spec.shape, chosen.count, RECIPES[chosen.model].classes)
    wide = efficientnet_features(target.data.spec)
    features: dict[str, Features] = {"own classifier": classifier_features(target.data, MODELS[chosen.model])}
    features |= {"EfficientNet-Lite0": wide} if wide else {}
    tests = {name: kind(target.data.test.inputs) for name, kind in features.items()}

    def distances(images: Tensor) -> list[str]:
        return [f"{sample_distance(kind(images), tests[name]):.1f}" for name, kind in features.items()]

    floor = distances(target.data.train.inputs[: chosen.count])
    print(f"n = {chosen.count} images of 16 patches; as many training images are at {', '.join(floor)}")
    print(f"| way | acceptance | passes of the model an image | speed, middle half | {' | '.join(features)} |")
    print("|---|---|---|---|" + "---|" * len(features))
    for name, way in measured.items():
        cells = (_acceptance(way), f"{statistics.mean(way.passes):.2f}", _ratio(way, measured[PLAIN]))
        print(f"| {name} | {' | '.join([*cells, *distances(way.images)])} |")
    if chosen.pictures:
        rows = [measured[name].images[:20] for name in (PLAIN, "drafts of 4", "the draft alone")]
        save_pictures(rows, target.data.spec, chosen.pictures / f"{chosen.model}.png")


if __name__ == "__main__":
    main()
