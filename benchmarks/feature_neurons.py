"""Feature neurons of SmolLM2-135M: seconds to name all, what a clamp does, and what a client's update says.

Naming: CPU seconds of one thread for every neuron of `up_proj`. Clamps: the neuron that gives a concept the highest
share is held at c times the largest |activation| that was seen on the prompts; the figure is the change of the log-
odds of the concept as next token, a mean over 10 beginnings of news with a 95 % interval by bootstrap. Controls are
10 random neurons of the same layer, held at 10 times their own. Updates: one gradient of `up_proj` a client, of one
sentence, or of eight. The ten likeliest tokens of the 64 rows that moved most are named; the figure is the share of
the distinct tokens of a client's text that are among them, beside the share of the tokens of the other clients' texts
(chance).
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._decoding import beginnings, news, real_model  # noqa: E402
from benchmarks._rows import Row, main, measured, with_interval  # noqa: E402
from fedsim.components.probe.feature_neurons import clamped, moved_neurons, name_neurons, neuron_rows  # noqa: E402
from fedsim.core.layer_calls import layer_outputs  # noqa: E402
from fedsim.core.losses import IGNORED  # noqa: E402
from fedsim.core.types import Dataset, Tokenizer  # noqa: E402

_CONCEPTS = ("dog", "California", "music")
_PROMPTS, _RANDOM, _MOVED, _CLIENTS = 10, 10, 64, 12


class _Neuron(NamedTuple):
    layer: str
    number: int
    sign: float


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version adds updates of eight sentences."""
    model, data = real_model(), news(32)
    assert data.tokenizer is not None
    concepts = {word: _tokens(word, data.tokenizer) for word in _CONCEPTS}
    row, neurons = _map(model, concepts)
    rows = [row]
    prompts = torch.tensor(beginnings(data, _PROMPTS, 6).prompts)
    for concept, (neuron, share) in neurons.items():
        rows.append(measured("share of the concept", f"{concept}: {neuron.layer}, {neuron.number}", [share], "", ""))
        rows += _clamps(model, prompts, concept, concepts[concept], neuron)
    for sentences in (1, 8) if full else (1,):
        rows += _updates(model, data, sentences)
    return rows


def _tokens(word: str, tokenizer: Tokenizer) -> list[int]:
    """Return the first token of the word with a space and without one, where it is the whole word."""
    every = [tokenizer.encode(spelling) for spelling in (f" {word}", word)]
    return [int(tokens[0]) for tokens in every if len(tokens) == 1]


def _map(model: nn.Module, concepts: dict[str, list[int]]) -> tuple[Row, dict[str, tuple[_Neuron, float]]]:
    begin, named = time.process_time(), 0
    best: dict[str, tuple[_Neuron, float]] = {}
    for layer, rows in neuron_rows(model).items():
        names = name_neurons(model, rows, concepts=concepts)
        named += len(rows)
        for concept, shares in names.shares.items():
            share, number = (entry.item() for entry in shares.max(0))
            if concept not in best or share > best[concept][1]:
                best[concept] = _Neuron(layer, int(number), float(names.signs[int(number)])), share
    seconds = time.process_time() - begin
    return measured("all neurons named", f"{named} neurons, one thread", [seconds], "CPU s", "<= 60"), best


@torch.no_grad()
def _log_odds(model: nn.Module, prompts: Tensor, tokens: Sequence[int]) -> Tensor:
    return model(prompts)[:, -1].double().softmax(-1)[:, list(tokens)].sum(1).logit()


def _clamps(model: nn.Module, prompts: Tensor, concept: str, tokens: Sequence[int], neuron: _Neuron) -> list[Row]:
    with torch.no_grad(), layer_outputs(model, [neuron.layer]) as seen:
        model(prompts)
    sizes = seen[0][1].abs().flatten(0, -2).amax(0)
    before = _log_odds(model, prompts, tokens)

    def change(number: int, times: float) -> list[float]:
        with clamped(model, neuron.layer, {number: times * float(sizes[number])}):
            return (_log_odds(model, prompts, tokens) - before).tolist()

    what = f"log-odds of '{concept}'"
    rows = [
        with_interval(what, f"held at {times:+d}, by its sign", change(neuron.number, neuron.sign * times), "nats")
        for times in (-10, -3, 3, 10)
    ]
    source = torch.Generator().manual_seed(0)
    others = torch.randperm(len(sizes), generator=source)[:_RANDOM].tolist()
    effects = [sum(each) / len(each) for each in (change(number, 10.0) for number in others)]
    return [*rows, measured(what, f"{_RANDOM} random neurons at +10", effects, "nats", "")]


def _updates(model: nn.Module, data: Dataset, sentences: int) -> list[Row]:
    chosen = {name: weight for name, weight in model.named_parameters() if name.endswith("up_proj.weight")}
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in chosen.values():
        parameter.requires_grad = True
    texts, changes = [], []
    for client in range(_CLIENTS):
        part = slice(client * sentences, (client + 1) * sentences)
        inputs, labels = data.test.inputs[part], data.test.labels[part]
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        slopes = torch.autograd.grad(loss, list(chosen.values()))
        changes.append(dict(zip(chosen, slopes, strict=True)))
        texts.append(set(inputs[labels != IGNORED].tolist()))
    layers = list(chosen)
    rows = [
        row
        for name, some in (("all layers", layers), ("first layer", layers[:1]), ("last layer", layers[-1:]))
        for row in _rows_of_updates(
            f"{sentences} sentences, {name}", [_said(model, change, some) for change in changes], texts
        )
    ]
    for times in (1, 10):
        noisy = [_said(model, _noisy(change, times, client), layers[:1]) for client, change in enumerate(changes)]
        rows += _rows_of_updates(f"{sentences} sentences, first layer, noise {times} times the update", noisy, texts)
    return rows


def _noisy(change: dict[str, Tensor], times: int, client: int) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(client)
    return {
        name: tensor + times * float(tensor.square().mean().sqrt()) * torch.randn(tensor.shape, generator=source)
        for name, tensor in change.items()
    }


def _said(model: nn.Module, change: dict[str, Tensor], layers: Sequence[str]) -> set[int]:
    """Return the tokens that the head says of the rows that moved most."""
    moved = moved_neurons({name: change[name] for name in layers})[:_MOVED]
    return set(
        name_neurons(model, torch.stack([change[name][number] for name, number in moved])).tokens.flatten().tolist()
    )


def _rows_of_updates(setting: str, said: Sequence[set[int]], texts: Sequence[set[int]]) -> list[Row]:
    share = [[len(words & text) / len(text) for text in texts] for words in said]
    of_client = [share[client][client] for client in range(len(texts))]
    others = [(sum(row) - row[client]) / (len(row) - 1) for client, row in enumerate(share)]
    best = [float(max(range(len(row)), key=row.__getitem__) == client) for client, row in enumerate(share)]
    return [
        with_interval("tokens of the client's own text", setting, of_client, "share"),
        with_interval("tokens of the others' texts (chance)", setting, others, "share"),
        with_interval(f"own text among {len(texts)} found", setting, best, "share"),
    ]


if __name__ == "__main__":
    main(measure, __doc__ or "")
