"""Does repeating tokens make embeddings less biased towards length, and does that or the queue cost anything?

A tiny encoder learns 2,000 sentences of STS-B from scratch: 200 steps of Adam on batches of 64, one client (about two
minutes). Measured on the sentences of the development pairs: the rank correlation between cosines and people's scores;
that between the difference in length and the cosine of 20,000 random pairs (length bias, 0 is none); alignment of the
pairs with a score of 4 or more, uniformity, and how often the nearest of all partners is the right one. Settings hold
the 95 % interval of the mean over five seeds; changes are paired by seed.
With --full, ten seeds, and the queue without repetition.
Paper: Wu et al. 2022, arXiv 2109.04380, which starts from a trained BERT; no figure of it is aimed at here.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from scipy import stats  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks._sentence_pairs import ARMS, encoders  # noqa: E402
from fedsim.core.types import Tensors  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.embedding import agreement, alignment, length_bias, uniformity  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402

_FEDERATION = {
    "algorithm": "fedavg",
    "clients": 1,
    "batch_size": 64,
    "local_steps": 200,
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
}
_SEEDS, _FULL_SEEDS = 5, 10
_RANDOM_PAIRS = 20_000
_ALIKE = 4.0
_MEASURED_FOR_UNIFORMITY = 1000
_SPEARMAN, _BIAS, _RETRIEVAL = "STS-B Spearman correlation x 100", "length bias", "right partner is the nearest"


def figures(world: World, weights: Tensors) -> dict[str, float]:
    """Return what is measured of an encoder."""
    model, tokens, similarities = (
        world.models.holding(weights).eval(),
        world.data.dataset.test.inputs,
        world.data.dataset.similarities,
    )
    assert similarities is not None
    with torch.no_grad():
        embeddings = torch.cat([model(chunk) for chunk in tokens.split(256)])
    lengths = (tokens != world.data.dataset.spec.padding).sum(1)
    alike = similarities.pairs[similarities.scores >= _ALIKE]
    return {
        _SPEARMAN: 100 * agreement(embeddings, similarities),
        _BIAS: length_bias(embeddings, lengths, _random_pairs(len(tokens))),
        "alignment": alignment(embeddings[alike[:, 0]], embeddings[alike[:, 1]]),
        "uniformity": uniformity(embeddings[:_MEASURED_FOR_UNIFORMITY]),
        _RETRIEVAL: retrieval(embeddings, alike),
    }


def retrieval(embeddings: Tensor, pairs: Tensor) -> float:
    """Return how often the nearest of all second sentences of pairs (P, 2) belongs to the first one."""
    unit = F.normalize(embeddings, dim=1)
    nearest = (unit[pairs[:, 0]] @ unit[pairs[:, 1]].T).argmax(1)
    return float((pairs[nearest, 1] == pairs[:, 1]).double().mean())


def _random_pairs(sentences: int) -> Tensor:
    pairs = torch.randint(sentences, (_RANDOM_PAIRS, 2), generator=torch.Generator().manual_seed(0))
    return pairs[pairs[:, 0] != pairs[:, 1]]


def measure(full: bool) -> list[Row]:
    """Return the rows."""
    arms = {**ARMS, "with queue": {"dup_rate": 0.0}} if full else ARMS
    seeds = range(_FULL_SEEDS if full else _SEEDS)
    by_arm: dict[str, list[dict[str, float]]] = {"untrained": [], **{arm: [] for arm in arms}}
    for seed in seeds:
        for arm, settings in arms.items():
            encoder_world = encoders(seed, _FEDERATION, settings)
            if arm == "SimCSE":
                by_arm["untrained"].append(figures(encoder_world, encoder_world.models.first_weights))
            update, _ = local_training(encoder_world, encoder_world.models.first_weights, 1, 0)
            weights = {
                n: first - update.tensors.get(n, torch.zeros(()))
                for n, first in encoder_world.models.first_weights.items()
            }
            by_arm[arm].append(figures(encoder_world, weights))
    rows = [
        _row(name, arm, [one[name] for one in of_arm], "")
        for arm, of_arm in by_arm.items()
        for name in by_arm["untrained"][0]
    ]
    base = by_arm["SimCSE"]
    for arm in list(arms)[1:]:
        for name, must in ((_BIAS, "> 0"), (_SPEARMAN, ">= 0"), (_RETRIEVAL, ">= 0")):
            changes = [after[name] - before[name] for after, before in zip(by_arm[arm], base, strict=True)]
            rows.append(_row(f"change of {name}", arm, changes, must if "repetition" in arm else ""))
    return rows


def _row(name: str, arm: str, values: list[float], must: str) -> Row:
    """Return a row whose value is the mean over seeds; the setting says its 95 % interval."""
    mean = sum(values) / len(values)
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
    return measured(name, f"{arm}, mean of seeds [{low:.3g}, {high:.3g}]", values, "", must, mean)


if __name__ == "__main__":
    main(measure, __doc__ or "")
