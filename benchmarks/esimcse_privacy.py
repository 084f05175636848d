"""What a gradient of ESimCSE tells: the words of its sentences, their length, and sentences that are not in the batch.

Tiny encoders, first trained for 60 steps; then each of 6 clients sends gradients of 8 sentences, and the last one is
attacked. Words: rows of the embedding's gradient. Length: rows of the gradient of the positions, against the longest
sentence of the batch. Queue: an attacker who knows the present batch, and in the strong form also its masks and
repetitions, explains the gradient of the head by a sum of what candidates would add to it as entries of the queue, with
weights from 0 to 2, and near 1/2 where the gradient says nothing (least squares). His
candidates are sentences of earlier batches and as many of another client; told is how well the weights tell them apart
(area under the ROC curve, 0.5 is chance). He has neither queue nor momentum encoder, and takes the received weights for
both. Controls: no queue at all, and earlier sentences that have left the queue.
Text: LAMP and TAG refuse this loss, so that LAMP's moves of words alone are tried on batches of two sentences without
repetition and queue, whose lengths and last tokens are known; dropout masks are known, or ignored. The control is the
random arrangement of the words that the search begins with.
Paper: Wu et al. 2022, arXiv 2109.04380, which asks none of this.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from scipy.optimize import lsq_linear  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._contrastive_text import Contrast, searched  # noqa: E402
from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks._sentence_pairs import ARMS, encoders  # noqa: E402
from fedsim.components.loss.esimcse import TwoViews, two_views  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.core.layer_calls import layer_inputs  # noqa: E402
from fedsim.core.masks import inject_masks, without_dropout  # noqa: E402
from fedsim.core.showing import Showing  # noqa: E402
from fedsim.core.types import Memory, Tensors, Truth, Update  # noqa: E402
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.text import rouge_l  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402

_CLIENTS, _BATCH, _T = 6, 8, 0.05
_STEP = 0.002  # of plain gradient steps between two rounds
_MOST = 2.0  # times that a sentence may stand in the queue
_TRIES = 800  # changes of words
_SEARCHED = ("moves of words", "random words (control)")
_ROUNDING, _DRIFT = 1e-4, 1e-2  # noise taken for granted, of the root mean square: weights that stand still, and move
_WARM_UP = {
    "algorithm": "fedavg", "clients": 1, "batch_size": 64, "local_steps": 60,
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
}  # fmt: skip


class Attacked(NamedTuple):
    """One client's last update, the weights that it answers, and the sentences of its earlier batches, oldest first."""

    received: Tensors
    update: Update
    truth: Truth
    earlier: Tensor


class Case(NamedTuple):
    """What is asked of the queue.

    Attributes:
        queue: sentences that it holds.
        rounds: before the attacked one.
        candidates_at: which of the earlier sentences are candidates, as a slice.
        strong: whether masks and repetitions are known.
        step: of plain gradient steps between two rounds; 0 where the weights stand still.
        must: of the area under the curve.
    """

    name: str
    queue: int
    rounds: int
    candidates_at: slice
    strong: bool
    step: float
    must: str


CASES = (
    Case("queue of 16, still weights, masks known", 16, 2, slice(None), True, 0.0, ">= 0.9"),
    Case("queue of 16, still weights, masks unknown", 16, 2, slice(None), False, 0.0, ""),
    Case("queue of 16, masks known", 16, 2, slice(None), True, _STEP, ""),
    Case("queue of 16, masks unknown", 16, 2, slice(None), False, _STEP, ""),
    Case("queue of 160, still weights, masks known", 160, 20, slice(None), True, 0.0, ""),
    Case("queue of 160, masks known", 160, 20, slice(None), True, _STEP, ""),
    Case("no queue, still weights, masks known (control)", 0, 2, slice(None), True, 0.0, ""),
    Case(
        "queue of 16, sentences that left it, still weights, masks known (control)", 16, 4, slice(0, 16), True, 0.0, ""
    ),
)


def attacked(world: World, weights: Tensors, client: int, rounds: int, step: float) -> Attacked:
    """Let a client send its gradients of some rounds and one more."""
    memory: Memory = {}
    earlier: list[Tensor] = []
    for round_ in range(1, rounds + 1):
        update, truth = local_training(world, weights, round_, client, memory)
        earlier.append(truth.private[0].inputs)
        weights = {n: w - step * update.tensors.get(n, torch.zeros(())) for n, w in weights.items()}
    update, truth = local_training(world, weights, rounds + 1, client, memory)
    none = truth.private[0].inputs[:0]
    return Attacked(weights, update, truth, torch.cat([none, *earlier]))


def read(world: World, seen: Attacked) -> dict[str, float]:
    """Return what rows of two gradients tell about words and length."""
    tokens, padding = seen.truth.private[0].inputs, world.data.dataset.spec.padding
    words = set(tokens[tokens != padding].tolist())
    read_words = set(seen.update.tensors["encoder.embed_tokens.weight"].any(1).nonzero().flatten().tolist())
    places = int(seen.update.tensors["encoder.embed_positions.weight"].any(1).sum())
    return {
        "words found": len(words & read_words) / len(words),
        "found words that are right": len(words & read_words) / len(read_words),
        "longest sentence read too long by": places - int((tokens != padding).sum(1).max()),
    }


@torch.no_grad()
def explained(world: World, seen: Attacked, candidates: Tensor, noise: float, *, strong: bool) -> Tensor:
    """Return how much of the gradient of the head each candidate (C, T) explains as an entry of the queue, (C,).

    The gradient is a sum of products with the known embeddings, which gives the derivative u of each sentence's loss,
    up to its known positive pair. With e = exp(cos / t), G the derivative of cos / t, and S and K the sums of e and e G
    over the batch, sum_c x_c e_c (G_c - u) = S u - K is linear in the weights x.
    """
    model = world.models.holding(seen.received)
    views = two_views(model)
    assert views is not None
    embeddings = _embeddings(world, model, views, seen, strong=strong).double()
    queue = F.normalize(views.eval().head(views.encoder(candidates)).double(), dim=1)
    views.train()
    observed = seen.update.tensors["head.0.weight"].double() @ torch.linalg.pinv(embeddings.T).T
    first, second = views.head(embeddings.float()).double().chunk(2)
    unit = F.normalize(first, dim=1)

    def derivatives(others: Tensor) -> Tensor:
        """Return those of cos / t of every first view and each of N others before the tanh, (B, N, d)."""
        inside = others[None] - (unit @ others.T)[..., None] * unit[:, None]
        return (1 - first.square())[:, None] * inside / (first.norm(dim=1)[:, None, None] * _T)

    positives = F.normalize(second, dim=1)
    batch, possible = (unit @ positives.T / _T).exp(), (unit @ queue.T / _T).exp()
    own_derivatives = derivatives(positives)
    places = torch.arange(len(first))
    u = len(first) * observed.T[: len(first)] + own_derivatives[places, places]
    sums = batch.sum(1)
    columns = possible[..., None] * (derivatives(queue) - u[:, None]) / sums[:, None, None]
    target = u - (batch[..., None] * own_derivatives).sum(1) / sums[:, None]
    return _bounded(columns.transpose(1, 2).flatten(0, 1), target.flatten(), noise * u.square().mean().sqrt())


def _bounded(columns: Tensor, target: Tensor, noise: Tensor) -> Tensor:
    """Return weights (C,) from 0 to 2 of columns (P, C) that explain a target (P,), drawn to 1/2 by the noise."""
    prior = noise * torch.eye(columns.shape[1], dtype=columns.dtype)
    matrix = torch.cat([columns, 2.0 * prior])
    wanted = torch.cat([target, prior.sum(1)])
    basis, triangle = torch.linalg.qr(matrix)
    return torch.from_numpy(lsq_linear(triangle.numpy(), (basis.T @ wanted).numpy(), bounds=(0.0, _MOST)).x)


def _embeddings(world: World, model: nn.Module, views: TwoViews, seen: Attacked, *, strong: bool) -> Tensor:
    """Return what the head reads, first views before second (2B, d): as the client drew, or without any draws."""
    tokens = seen.truth.private[0].inputs
    with layer_inputs(views, ["head"]) as read:
        if strong:
            with Showing(seen.truth.draws[0]), inject_masks(_sites(world, len(tokens)), seen.truth.masks[0]):
                model(tokens)
        else:
            with without_dropout():
                model(tokens)
    return torch.cat([given for _, given in read])


def _sites(world: World, examples: int) -> tuple[Any, ...]:
    return tuple(type(s)(s.call, s.name, s.rate, (examples, *s.shape[1:])) for s in world.models.sites)


class Text(NamedTuple):
    """What is asked of the text: of batches of two sentences without repetition and queue."""

    name: str
    dropout: float
    knows_masks: bool


TEXTS = (
    Text("without dropout", 0.0, False),
    Text("dropout 0.1, masks known", 0.1, True),
    Text("dropout 0.1, masks ignored", 0.1, False),
)


def text(world: World, sent: Tensors, case: Text, client: int) -> tuple[float, float]:
    """Return ROUGE-L of the words that a search for a client's text ends with, and of those that it begins with."""
    update, truth = local_training(world, sent, 1, client)
    batch, sites = truth.private[0], _sites(world, len(truth.private[0].inputs))
    masks = truth.masks[0] if case.knows_masks else None
    contrast = Contrast(world.models.holding(sent), world.stack.loss(1), update.tensors, sites, masks)
    spec = world.data.dataset.spec
    given = torch.isin(batch.inputs, torch.tensor([-1 if spec.padding is None else spec.padding, *spec.borders]))
    known = torch.where(given, batch.inputs, -1)
    generator = seeding.generator(0, "text of two views", client)
    first, last = searched(contrast, known, _TRIES, generator)
    return _rouge(world, batch.inputs, last), _rouge(world, batch.inputs, first)


def _rouge(world: World, originals: Tensor, guesses: Tensor) -> float:
    """Return the mean ROUGE-L of two sentences' words, in the better of both orders."""
    tokenizer = world.data.dataset.tokenizer
    assert tokenizer is not None
    theirs, ours = ([tokenizer.decode(row).split() for row in rows.tolist()] for rows in (originals, guesses))
    return max(
        sum(rouge_l(guess, original) for guess, original in zip(order, theirs, strict=True)) / len(theirs)
        for order in (ours, ours[::-1])
    )


def warm() -> Tensors:
    """Return the weights after a first training without repetition or queue."""
    warm_world = encoders(0, _WARM_UP, ARMS["SimCSE"])
    update, _ = local_training(warm_world, warm_world.models.first_weights, 1, 0)
    return {n: first - update.tensors.get(n, torch.zeros(())) for n, first in warm_world.models.first_weights.items()}


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version adds those of six other clients, on whom the attack was not worked out."""
    groups = {"": range(_CLIENTS), ", other clients": range(_CLIENTS, 2 * _CLIENTS)}
    return [row for group in list(groups)[: 2 if full else 1] for row in _measured(groups[group], group)]


def _measured(clients: range, group: str) -> list[Row]:
    federation = {"clients": 2 * _CLIENTS, "batch_size": _BATCH}
    start = warm()
    rows: list[Row] = []
    for arm, settings in ARMS.items():
        arm_world = encoders(0, federation, settings)
        figures = [read(arm_world, attacked(arm_world, start, client, 1, _STEP)) for client in clients]
        for name in figures[0]:
            unit, must = ("tokens", "") if "longest" in name else ("share", ">= 1")
            rows.append(measured(name, arm + group, [one[name] for one in figures], unit, must))
    for case in CASES:
        arm_world = encoders(0, federation, {"queue_size": case.queue})
        areas = [
            _area(arm_world, client, attacked(arm_world, start, client, case.rounds, case.step), case)
            for client in clients
        ]
        name = "area under the curve, earlier sentences against those of another client"
        rows.append(measured(name, case.name + group, areas, "", case.must, sum(areas) / len(areas)))
    return rows + _read_texts(clients, start, group)


def _read_texts(clients: range, start: Tensors, group: str) -> list[Row]:
    federation = {"clients": 2 * _CLIENTS, "batch_size": 2}
    rows: list[Row] = []
    for case in TEXTS:
        case_world = encoders(0, federation, ARMS["SimCSE"], {"name": "tiny-encoder", "dropout": case.dropout})
        for weights, sent in (("fresh", case_world.models.first_weights), ("trained", start)):
            scores = [text(case_world, sent, case, client) for client in clients]
            for name, values in zip(_SEARCHED, zip(*scores, strict=True), strict=True):
                row = measured(f"ROUGE-L, {name}", f"{weights}, {case.name}{group}", values, "", "")
                rows.append(row._replace(value=sum(values) / len(values)))
    return rows


def _area(world: World, client: int, seen: Attacked, case: Case) -> float:
    kept = seen.earlier[case.candidates_at.stop :] if case.candidates_at.stop else seen.earlier[:0]
    present = _rows(torch.cat([kept, seen.truth.private[0].inputs]))
    candidates = torch.tensor(sorted(_rows(seen.earlier[case.candidates_at]) - present))
    others = world.data.dataset.train.inputs[world.data.shares[(client + 1) % len(world.data.shares)]]
    noise = _DRIFT if case.step else _ROUNDING
    also = torch.tensor(sorted(present))  # may stand in the queue too, but nothing is asked about them
    scores = explained(world, seen, torch.cat([candidates, others[: len(candidates)], also]), noise, strong=case.strong)
    inside, outside = scores[: len(candidates), None], scores[len(candidates) : 2 * len(candidates)]
    return float(((inside > outside).double() + 0.5 * (inside == outside).double()).mean())


def _rows(tokens: Tensor) -> set[tuple[int, ...]]:
    return {tuple(row) for row in tokens.tolist()}


if __name__ == "__main__":
    main(measure, __doc__ or "")
