"""What SmolLM2-135M writes while a neuron is held, and how many of its neurons keep their name when it is trained on.

The neuron that gives `dog` the highest share of all 46,080 is held at c times the largest |activation| that was seen
on beginnings of news, by its sign. Behind "My favourite animal is", texts are drawn at temperature 1, the same seeds
for every c: printed are the likeliest text, the share that mention a dog, with Wilson's 95 % interval, and the cost of
unchanged news in nats a token, with an interval by bootstrap over sentences. Control: a random neuron of the layer,
held at the first and the last c.

The ten most specialised neurons are printed with their three likeliest tokens.

``--part tuned``: the model is trained on for some steps on news, and its neurons are named again: the share whose
likeliest token is the same, beside the model itself and beside random rows.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import copy  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._decoding import beginnings, news, real_model, write  # noqa: E402
from benchmarks._rows import in_words, with_interval  # noqa: E402
from fedsim.components.probe.feature_neurons import NamedNeurons, clamped, name_neurons, neuron_rows, same_top  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.layer_calls import layer_outputs  # noqa: E402
from fedsim.core.losses import IGNORED  # noqa: E402
from fedsim.core.types import Dataset, Limits  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

CONCEPT, QUESTION = "dog", "My favourite animal is"
TIMES = (-10, 0, 3, 10, 30)
_TOKENS, _SENTENCES, _BATCH = 16, 20, 8


def named(model: nn.Module, tokens: Sequence[int], every: int = 1) -> tuple[dict[str, NamedNeurons], float]:
    """Return what the neurons of every so-manieth `up_proj` stand for, and the processor seconds that it took."""
    begin, chosen = time.process_time(), list(neuron_rows(model).items())[::every]
    names = {name: name_neurons(model, rows, concepts={CONCEPT: tokens}) for name, rows in chosen}
    return names, time.process_time() - begin


def tuned(model: nn.Module, data: Dataset, steps: int, rate: float) -> nn.Module:
    """Return a copy of a model that was trained on for some steps."""
    network, source = copy.deepcopy(model).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.0)
    for _ in range(steps):
        batch = data.train.taken(torch.randint(len(data.train), (_BATCH,), generator=source))
        optimizer.zero_grad()
        costs(network, batch.inputs, batch.labels).mean().backward()
        optimizer.step()
    return network.eval()


def costs(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return the cost of each text in nats a token."""
    scores = model(inputs).transpose(1, 2)
    each = nn.functional.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="none")
    return each.sum(1) / (labels != IGNORED).sum(1)


def overall(one: Mapping[str, NamedNeurons], other: Mapping[str, NamedNeurons]) -> float:
    """Return the share of neurons of all layers, equally many each, that keep their likeliest token."""
    return sum(same_top(neurons, other[name]) for name, neurons in one.items()) / len(one)


def specialised(every: Mapping[str, NamedNeurons], count: int) -> list[tuple[str, int]]:
    """Return the neurons of all layers whose likeliest token is likeliest, as (layer, neuron), the first one first."""
    shares = [
        (odds, name, number)
        for name, neurons in every.items()
        for number, odds in enumerate(neurons.probabilities[:, 0].tolist())
    ]
    return [(name, number) for _, name, number in sorted(shares, key=lambda entry: -entry[0])[:count]]


def mention(texts: Sequence[str]) -> str:
    """Return the share of texts that hold the concept, with its interval."""
    return in_words(wilson(sum(CONCEPT in text.lower() for text in texts), len(texts)), 2)


def _texts(model: nn.Module, data: Dataset, count: int, name: str) -> list[str]:
    assert data.tokenizer is not None
    prompt = tuple(int(token) for token in data.tokenizer.encode(QUESTION))
    limits = Limits(max_new_tokens=_TOKENS)
    texts = write(name, {}, model, Condition((prompt,) * count), limits, data.tokenizer)
    return [data.tokenizer.decode(text.tokens).replace("\n", " ") for text in texts]


def _print_texts(model: nn.Module, data: Dataset, every: Mapping[str, NamedNeurons], count: int) -> None:
    layer = max(every, key=lambda name: float(every[name].shares[CONCEPT].max()))
    neuron = int(every[layer].shares[CONCEPT].argmax())
    other = int(torch.randint(len(every[layer].signs), (), generator=torch.Generator().manual_seed(0)))
    prompts = torch.tensor(beginnings(data, 10, 6).prompts)
    with torch.no_grad(), layer_outputs(model, [layer]) as seen:
        model(prompts)
    sizes = seen[0][1].abs().flatten(0, -2).amax(0)
    tests = data.test.taken(torch.arange(_SENTENCES))
    print(f"{layer}, neuron {neuron}; {count} texts behind '{QUESTION}'")
    print("| held | mention a dog | cost of news, nats a token | likeliest text |")
    print("|---|---|---|---|")
    cases = [(f"c = {factor}", neuron, float(factor)) for factor in TIMES]
    cases += [(f"another neuron, c = {factor}", other, float(factor)) for factor in (TIMES[0], TIMES[-1])]
    for words, which, times in [("nothing", neuron, None), *cases]:
        held = {} if times is None else {which: times * float(every[layer].signs[which] * sizes[which])}
        with torch.no_grad(), clamped(model, layer, held):
            sampled, (likely,) = _texts(model, data, count, "sampled"), _texts(model, data, 1, "greedy")
            row = with_interval("", "", costs(model, tests.inputs, tests.labels).tolist(), "")
        cost = f"{row.value:.2f} [{row.minimum:.2f}, {row.maximum:.2f}]"
        print(f"| {words} | {mention(sampled)} | {cost} | {likely.strip()} |", flush=True)


def _print_tuned(model: nn.Module, data: Dataset, steps: int, rate: float, every: int) -> None:
    before, _ = named(model, (), every)
    first, rows = next(iter(neuron_rows(model).items()))
    random = name_neurons(model, torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)))
    new = tuned(model, data, steps, rate)
    behind, _ = named(new, (), every)
    tests = data.test.taken(torch.arange(_SENTENCES))
    with torch.no_grad():
        costs_of = [float(costs(network, tests.inputs, tests.labels).mean()) for network in (model, new)]
    print(f"{steps} steps at {rate:g}: cost of test news {costs_of[0]:.2f} before, {costs_of[1]:.2f} behind")
    count = sum(len(neurons.signs) for neurons in before.values())
    print(
        f"same top, {count:,} neurons: itself {overall(before, before):.3f}, trained on {overall(before, behind):.4f}"
    )
    by_layer = [same_top(neurons, behind[name]) for name, neurons in before.items()]
    print(f"by layer from {min(by_layer):.4f} to {max(by_layer):.4f}")
    print(f"random rows in place of {first}: {same_top(before[first], random):.4f}")


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="texts of each clamp")
    parser.add_argument("--steps", type=int, default=20, help="of AdamW")
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--part", choices=("texts", "tuned"), default="texts")
    parser.add_argument("--every", type=int, default=1, help="with tuned: name the neurons of every so-manieth layer")
    chosen = parser.parse_args()
    model, data = real_model(), news(32)
    if chosen.part == "tuned":
        _print_tuned(model, data, chosen.steps, chosen.rate, chosen.every)
        return
    assert data.tokenizer is not None
    tokens = [int(pieces[0]) for pieces in map(data.tokenizer.encode, (f" {CONCEPT}", CONCEPT)) if len(pieces) == 1]
    every, seconds = named(model, tokens)
    count = sum(len(neurons.signs) for neurons in every.values())
    print(f"{count:,} neurons named in {seconds:.0f} processor seconds of one thread", flush=True)
    for layer, number in specialised(every, 10):
        of_layer = every[layer]
        words = [repr(data.tokenizer.decode([token])) for token in of_layer.tokens[number, :3].tolist()]
        odds = float(of_layer.probabilities[number, 0])
        print(
            f"{layer}, neuron {number}, sign {float(of_layer.signs[number]):+.0f}: {', '.join(words)}; first {odds:.3f}"
        )
    _print_texts(model, data, every, chosen.count)


if __name__ == "__main__":
    main()
