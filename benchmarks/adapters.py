"""What does the gradient of a low-rank adapter tell about a sentence?

A tiny Llama that knows some news gets adapters, which are trained for some rounds on other people's sentences; then
each of several victims sends the gradient of one sentence. Looked at are the adapters of the first block, where what is
read depends on a token alone. The rows of A's gradient, and those of B's through A, span a space; the tokens whose
input is nearest to it are taken for the sentence's, as many as the space has dimensions. Where dropout's masks are
known, each place of the sentence is read by itself. Reported are shares of the sentence's different tokens, or of its
places; ranks, and how far true inputs are outside the spans, with the nearest of all other tokens as control. Settings
of shares hold the 95 % interval of their mean, by bootstrap over victims.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import copy  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import nullcontext  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._rows import Row, as_they_come, averaged, main, measured  # noqa: E402
from benchmarks._small_language_model import Sentences, Trainer, choices, trained  # noqa: E402
from fedsim.core import layer_calls, registry  # noqa: E402
from fedsim.core.losses import cross_entropy  # noqa: E402
from fedsim.core.masks import inject_masks, record_masks  # noqa: E402

RATE = 3e-3
VICTIMS = 20
QUERIES_AND_VALUES = ("q_proj", "v_proj")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
_ROUNDING = 1e-5  # of a span's singular values, over the largest


@dataclass(frozen=True)
class Way:
    """An adapter, and where it sits."""

    label: str
    component: str = "lora"
    rank: int = 32
    places: tuple[str, ...] = QUERIES_AND_VALUES
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def on(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model with the adapters."""
        method = registry.get("component", self.component)
        targets = [f"*.{place}" for place in self.places]
        config = method.config.model_validate({"targets": targets, "rank": self.rank, **self.settings})
        return method.make(config).prepare(copy.deepcopy(model), torch.Generator().manual_seed(0)).train()


@dataclass(frozen=True)
class Seen:
    """One victim's gradients, and what the layers of the first block read, (T, width), by the layer's own name.

    Attributes:
        masks: of what A read, by the layer's own name.
    """

    tokens: Tensor
    gradient: dict[str, Tensor]
    masks: dict[str, Tensor]


def seen(model: nn.Module, inputs: Tensor, labels: Tensor, seed: int) -> Seen:
    """Return what a victim sends of one sentence (1, T), and its masks."""
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad(), record_masks(model, torch.Generator().manual_seed(seed)) as recorded:
        model(inputs)
    with inject_masks(recorded.sites, tuple(recorded.masks)):
        slopes = torch.autograd.grad(cross_entropy(model(inputs), labels), list(names.values()))
    first = {name.removeprefix("layers.0.self_attn."): g for name, g in zip(names, slopes, strict=True)}
    sites = zip(recorded.sites, recorded.masks, strict=True)
    masks = {s.name.removeprefix("layers.0.self_attn.").split(".")[0]: m[0] for s, m in sites if "layers.0" in s.name}
    return Seen(inputs[0], first, masks)


def span(*gradients: Tensor) -> Tensor:
    """Return an orthonormal basis (rank, width) of the rows of gradients, each counting the same; none for zeros."""
    rows = torch.cat([g.double() / g.double().norm().clamp_min(1e-300) for g in gradients])
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[values > max(_ROUNDING * float(values[0]), 1e-12)]


def outside(inputs: Tensor, basis: Tensor) -> Tensor:
    """Return the share of each input's length outside a span: 1 for all where the span is the whole space."""
    inputs = inputs.double()
    if len(basis) >= inputs.shape[-1]:
        return torch.ones(inputs.shape[:-1])
    return (inputs - inputs @ basis.T @ basis).norm(dim=-1) / inputs.norm(dim=-1).clamp_min(1e-300)


def vocabulary_of(model: nn.Module) -> Tensor:
    """Return the numbers of all tokens."""
    return torch.arange(len(model.get_parameter("embed_tokens.weight")))


@torch.no_grad()
def read_by(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return what the first attention reads of single tokens (N,), shape (N, width)."""
    block = model.get_submodule("layers.0.input_layernorm")
    return block(model.get_submodule("embed_tokens")(tokens))


def share_told(tokens: Tensor, inputs: Tensor, basis: Tensor) -> float:
    """Return the share of a sentence's different tokens among those nearest to a span."""
    if not len(basis):
        return 0.0
    nearest = outside(inputs, basis).argsort(stable=True)[: len(basis)]
    wanted = tokens.unique()
    is_whole = len(basis) >= inputs.shape[-1]
    return 0.0 if is_whole else float(torch.isin(wanted, nearest).double().mean())


def told_by_place(victim: Seen, inputs: Tensor, basis: Tensor) -> float:
    """Return the share of places whose token is nearest of all, once masked as its place was."""
    if not len(basis):
        return 0.0
    guesses = [outside(inputs * mask, basis).argmin() for mask in victim.masks["v_proj"]]
    return float((torch.stack(guesses) == victim.tokens).double().mean())


def figures(model: nn.Module, victims: Sequence[Seen]) -> dict[str, list[float]]:
    """Return what the value adapter of the first block tells, one figure a victim, by what was looked at."""
    inputs = read_by(model, vocabulary_of(model))
    a = model.get_parameter("layers.0.self_attn.v_proj.lora_a.weight").detach()
    values: dict[str, list[float]] = {}

    def note(what: str, value: float) -> None:
        values.setdefault(what, []).append(value)

    for victim in victims:
        of_a = span(victim.gradient["v_proj.lora_a.weight"])
        of_b = span(victim.gradient["v_proj.lora_b.weight"])
        note("rank of dA", len(of_a))
        note("rank of dB", len(of_b))
        true, others = victim.tokens.unique(), torch.ones(len(inputs), dtype=torch.bool)
        others[true] = False
        for what, read, basis in (("inputs outside dA's", inputs, of_a), ("A x outside dB's", inputs @ a.T, of_b)):
            if len(basis):
                left = outside(read, basis)
                note(f"true {what} span", float(left[true].median()))
                note(f"other {what} span, nearest", float(left[others].min()))
        note("tokens told by dA", share_told(victim.tokens, inputs, of_a))
        note("tokens told by dB", share_told(victim.tokens, inputs @ a.T, of_b))
        if victim.masks:
            note("places told by dA, masks known", told_by_place(victim, inputs, of_a))
    return values


def after(way: Way, source: Sentences, rounds: Sequence[int]) -> Iterator[tuple[int, nn.Module]]:
    """Yield the model as victims receive it in each of some rounds."""
    model = way.on(source.model)
    trainer = Trainer(model, RATE)
    others = len(source.fresh) - VICTIMS
    for number, chosen in enumerate(choices(others, max(rounds), 1), 1):
        if number in rounds:
            yield number, model
        trainer.step(model, source.fresh.inputs[chosen], source.fresh.labels[chosen])


def victims_of(model: nn.Module, source: Sentences) -> list[Seen]:
    """Return what each victim sends: the sentences that nobody trained on."""
    chosen = range(len(source.fresh) - VICTIMS, len(source.fresh))
    return [seen(model, source.fresh.inputs[i : i + 1], source.fresh.labels[i : i + 1], i) for i in chosen]


def over_rounds(source: Sentences) -> Iterator[Row]:
    """LoRA with three rates of dropout and ALLoRA, round by round."""
    ways = (
        Way("LoRA"),
        Way("LoRA, p = 0.1", settings={"dropout": 0.1}),
        Way("LoRA, p = 0.3", settings={"dropout": 0.3}),
        Way("ALLoRA", "allora"),
    )
    for way in ways:
        for number, model in after(way, source, (1, 2, 50)):
            for what, values in figures(model, victims_of(model, source)).items():
                yield _row(f"{way.label}: {what}", f"round {number}, rank {way.rank}, q and v", values)


def over_ranks(source: Sentences) -> Iterator[Row]:
    """LoRA of several ranks: a span holds no more than its rank."""
    for rank in (4, 8, 16, 32, 64):
        way = Way("LoRA", rank=rank)
        for number, model in after(way, source, (1, 10)):
            for what, values in figures(model, victims_of(model, source)).items():
                if what.startswith("tokens"):
                    yield _row(f"LoRA: {what}", f"round {number}, rank {rank}, q and v", values)


def _row(name: str, setting: str, values: list[float]) -> Row:
    """Return the row of a figure: the mean of what is told, the median of anything else."""
    return (averaged if " told " in name else measured)(name, setting, values, "", "")


@torch.no_grad()
def loss_of(model: nn.Module, source: Sentences) -> float:
    """Return the loss on test sentences, without dropout."""
    model.eval()
    loss = cross_entropy(model(source.test.inputs), source.test.labels).item()
    model.train()
    return loss


def until(way: Way, source: Sentences, goal: float, most: int = 200) -> tuple[nn.Module, int, float]:
    """Return the model once its test loss is at a goal, the steps that it took, and its loss."""
    model = way.on(source.model)
    trainer = Trainer(model, RATE)
    loss = loss_of(model, source)
    for number, chosen in enumerate(choices(len(source.fresh) - VICTIMS, most, 1), 1):
        trainer.step(model, source.fresh.inputs[chosen], source.fresh.labels[chosen])
        loss = loss_of(model, source)
        if loss <= goal:
            return model, number, loss
    return model, most, loss


def over_placements(source: Sentences) -> Iterator[Row]:
    """LoRA at three places and two ranks, each trained until the test loss has come down as far."""
    first = loss_of(source.model, source)
    goal = first - 0.15
    for label, places in (("q and v", QUERIES_AND_VALUES), ("all", ATTENTION + MLP), ("MLP", MLP)):
        for rank in (8, 32):
            model, steps, loss = until(Way("LoRA", rank=rank, places=places), source, goal)
            setting = f"{label}, rank {rank}, test loss {loss:.2f} (at first {first:.2f}) after {steps} steps"
            sent = victims_of(model, source)
            values = [_told_at(model, victim, label) for victim in sent[: VICTIMS if label != "MLP" else 5]]
            what = "tokens told by dA" if label != "MLP" else "places told by dA, given all before"
            yield _row(f"LoRA: {what}", setting, values)


def _told_at(model: nn.Module, victim: Seen, label: str) -> float:
    """Return what all adapters of the first block that read the same thing tell together."""
    if label == "MLP":
        basis = span(*(victim.gradient[f"layers.0.mlp.{place}.lora_a.weight"] for place in MLP[:2]))
        return _told_given_beginnings(model, victim.tokens, basis)
    names = [name for name in ("q_proj", "k_proj", "v_proj") if f"{name}.lora_a.weight" in victim.gradient]
    inputs = read_by(model, vocabulary_of(model))
    return share_told(victim.tokens, inputs, span(*(victim.gradient[f"{name}.lora_a.weight"] for name in names)))


@torch.no_grad()
def _told_given_beginnings(model: nn.Module, tokens: Tensor, basis: Tensor) -> float:
    """Return the share of places where, behind the true beginning, the true token's input is nearest of all."""
    every = vocabulary_of(model)
    right = 0
    for place, token in enumerate(tokens):
        several = torch.cat((tokens[:place].expand(len(every), -1), every[:, None]), 1)
        (read,) = layer_calls.read_by(model, ["layers.0.mlp"], several, nullcontext())
        right += int(outside(read[:, -1], basis).argmin() == token)
    return right / len(tokens)


def measure(full: bool) -> list[Row]:
    """Return all rows; the long version has no more."""
    source = trained()
    return as_they_come(row for part in (over_rounds, over_ranks, over_placements) for row in part(source))


if __name__ == "__main__":
    main(measure, __doc__ or "")
