"""Markov categorical measures of a tiny Llama that learns a language whose kernel is known.

The language has 12 tokens; the logits of the next are a sum of one table for each of the last two. At checkpoints of
one training: cost of held-out text, |entropy of the head - entropy of the language|, and the alignment of the states
with the language's next token, beside the same with the contexts permuted. At the end: the surplus of a state on the
token after the next, in nats, beside its exact value for a state that holds both tokens, and with permuted states
(0), and the rank correlation of cost and alignment. Privacy: area under the curve of membership over 64 texts that
were trained on 40 times and 64 that were not, by the cost and by the calibrated gap, before that training (chance)
and behind it. Intervals of areas are by bootstrap over texts; those of the surplus over texts.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from fedsim.components.probe.feature_neurons import auc  # noqa: E402
from fedsim.components.probe.markov_categorical import (  # noqa: E402
    calibration_gap,
    categorical_entropy,
    estimated_surplus,
    spectral_alignment,
    table_surplus,
)
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.types import InputSpec  # noqa: E402
from fedsim.generation import hidden_states  # noqa: E402

_V, _LENGTH, _MEMBERS, _PASSES = 12, 16, 64, 40


class Language:
    """Second-order texts: p(c | a, b) = softmax(first[a] + second[b])."""

    def __init__(self) -> None:
        self.source = torch.Generator().manual_seed(0)
        tables = 1.5 * torch.randn(2, _V, _V, generator=self.source)
        self.kernel = (tables[0][:, None] + tables[1]).softmax(-1)  # (a, b, c)

    def draw(self, count: int) -> Tensor:
        """Return texts (count, length), of which the first two tokens are uniform."""
        text = torch.randint(0, _V, (count, 2), generator=self.source)
        while text.shape[1] < _LENGTH:
            new = self.kernel[text[:, -2], text[:, -1]].multinomial(1, generator=self.source)
            text = torch.cat((text, new), 1)
        return text

    def stationary(self) -> Tensor:
        """Return p(a, b) in the long run."""
        pair = torch.full((_V, _V), 1 / _V**2)
        for _ in range(500):
            pair = torch.einsum("ab,abc->bc", pair, self.kernel)
        return pair

    def surplus(self) -> float:
        """Return I(A B; D | C) in nats, of texts A B C D."""
        joint = torch.einsum("ab,abc,bcd->abcd", self.stationary(), self.kernel, self.kernel)
        return table_surplus(joint.flatten(0, 1))


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version trains for 1,000 steps in place of 300."""
    language = Language()
    held = language.draw(1_200)
    method = registry.get("model", "tiny-llama")
    with seeding.isolate_randomness(0):
        model = method.make(
            method.config.model_validate({"width": 32, "hidden": 64}),
            InputSpec((_LENGTH,), _V, (), (), vocabulary=_V),
        )
    stops = (0, 10, 30, 100, 300, 1000) if full else (0, 10, 30, 100, 300)
    rows, costs, aligned = list[Row](), list[float](), list[float]()
    optimizer, done = torch.optim.AdamW(model.parameters(), lr=3e-3), 0
    for stop in stops:
        _train(model, optimizer, [language.draw(32) for _ in range(stop - done)])
        done = stop
        cost, of_model, alignment, permuted = _checkpoint(model, language, held)
        costs.append(cost)
        aligned.append(alignment)
        rows += [
            measured("cost of held-out text", f"step {stop}", [cost], "nats", ""),
            measured(
                "entropy of the head less that of the language, without sign", f"step {stop}", [of_model], "nats", ""
            ),
            measured("alignment", f"step {stop}", [alignment], "", ""),
            measured("alignment, contexts permuted (control)", f"step {stop}", [permuted], "", ""),
        ]
    rank = float(spearmanr(costs, aligned)[0])  # type: ignore[arg-type]
    rows.append(measured("rank correlation of cost and alignment", f"{len(stops)} steps", [rank], "", "< -0.8"))
    return rows + _surplus(model, language, held) + _membership(model, language)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> None:
    for text in batches:
        optimizer.zero_grad()
        scores = model(text[:, :-1])[:, 1:]
        nn.functional.cross_entropy(scores.flatten(0, 1), text[:, 2:].flatten()).backward()
        optimizer.step()


@torch.no_grad()
def _checkpoint(model: nn.Module, language: Language, held: Tensor) -> tuple[float, float, float, float]:
    scores = model(held[:, :-1])[:, 1:].flatten(0, 1)
    cost = float(nn.functional.cross_entropy(scores, held[:, 2:].flatten()))
    truth = language.kernel[held[:, :-2], held[:, 1:-1]].flatten(0, 1)
    entropies = [float(categorical_entropy(odds).mean()) for odds in (scores.softmax(-1), truth)]
    states = hidden_states(model, "norm", held[:, :-1])[:, 1:].flatten(0, 1)
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
    permuted = spectral_alignment(states, truth[order])
    return cost, abs(entropies[0] - entropies[1]), spectral_alignment(states, truth), permuted


def _surplus(model: nn.Module, language: Language, held: Tensor) -> list[Row]:
    """Return what the state that predicts a token says of the token behind it."""
    states = hidden_states(model, "norm", held[:, :-2])[:, 1:]  # of positions 1 .. length - 3
    each, width = states.shape[1], states.shape[2]
    context = nn.functional.one_hot(held[:, 2:-1], _V).double().flatten(0, 1)
    later, flat = held[:, 3:].flatten(), states.reshape(-1, width)
    texts = torch.arange(len(held)).repeat_interleave(each)
    is_known = texts < len(held) // 2
    rows = [measured("surplus, exact", "a state that holds two tokens", [language.surplus()], "nats", "")]
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    for name, some_states in (("learned states", flat), ("permuted states (control)", flat[order])):
        without, with_states = estimated_surplus(context, some_states, later, texts, is_known)
        by_text = (without - with_states).view(-1, each).mean(1).tolist()
        rows.append(with_interval("surplus, estimated", name, by_text, "nats"))
    return rows


def _membership(model: nn.Module, language: Language) -> list[Row]:
    members, others = language.draw(_MEMBERS), language.draw(_MEMBERS)
    rows = _areas(model, members, others, "before (chance)")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    _train(model, optimizer, [members] * _PASSES)
    return rows + _areas(model, members, others, f"trained {_PASSES} times")


@torch.no_grad()
def _areas(model: nn.Module, members: Tensor, others: Tensor, setting: str) -> list[Row]:
    text = torch.cat((members, others))
    scores = model(text[:, :-1])[:, 1:]
    is_member = torch.arange(len(text)) < len(members)
    cost = nn.functional.cross_entropy(scores.mT, text[:, 2:], reduction="none").mean(1)
    gap = calibration_gap(scores, text[:, 2:]).mean(1)
    return [
        _area("cost", setting, -cost, is_member),
        _area("cost less entropy", setting, -gap, is_member),
    ]


def _area(name: str, setting: str, score: Tensor, is_member: Tensor) -> Row:
    source = np.random.default_rng(0)
    inside, outside = score[is_member], score[~is_member]

    def area(some: Tensor, rest: Tensor) -> float:
        return float(auc(torch.cat((some, rest))[:, None], torch.arange(len(some) + len(rest)) < len(some)))

    draws = [
        area(*(part[torch.from_numpy(source.integers(0, len(part), len(part)))] for part in (inside, outside)))
        for _ in range(500)
    ]
    low, high = (float(bound) for bound in np.quantile(draws, (0.025, 0.975)))
    value = area(inside, outside)
    return Row(f"membership by {name}", setting, value, "AUC", low, value, high, len(score), "reported", True)


if __name__ == "__main__":
    main(measure, __doc__ or "")
