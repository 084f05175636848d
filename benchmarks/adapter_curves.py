"""Does ALLoRA learn faster than LoRA in a short training?

A tiny Llama that knows some news gets adapters on queries and values, rank 8, and is trained on 200 new sentences for
60 steps: LoRA with dropout (alpha 16), LoRA without, and ALLoRA with its factors on the gradient and on the step, those
of its defaults and those of the rows of B with a larger eta, by Adam and by plain steps. Reported is the loss on the
training sentences, without dropout, after 10, 30 and 60 steps, and that on others after 60; one figure a seed, of first
values and order. With --full the model is SmolLM2-135M, with half the batch, a quarter of the sentences to measure on,
and the three ways of the paper's comparison.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._adapter_rows import sharing  # noqa: E402
from benchmarks._rows import Row, as_they_come, main, measured  # noqa: E402
from benchmarks._small_language_model import Sentences, Trainer, choices, trained  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.hooks import ModelComponent, Optimizer  # noqa: E402
from fedsim.core.losses import cross_entropy  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402

SENTENCES, STEPS, SEEDS = 200, (10, 30, 60), 3


@dataclass(frozen=True)
class Way:
    """A component with its settings."""

    label: str
    name: str
    settings: dict[str, Any]

    def component(self) -> ModelComponent[Any]:
        """Return the component."""
        method = registry.get("component", self.name)
        targets = ("*.q_proj", "*.v_proj")
        return method.make(method.config.model_validate({"targets": targets, "rank": 8, **self.settings}))


WAYS = (
    Way("LoRA, p = 0.1, alpha 16", "lora", {"dropout": 0.1}),
    Way("LoRA, p = 0, alpha 16", "lora", {}),
    Way("LoRA, p = 0, s = 1", "allora", {"power": "none"}),
    Way("ALLoRA, gradient", "allora", {}),
    Way("ALLoRA, update", "allora", {"apply_to": "update"}),
    Way("ALLoRA, gradient, B, eta 5", "allora", {"norm": "B", "eta": 5.0}),
    Way("ALLoRA, update, B, eta 5", "allora", {"norm": "B", "eta": 5.0, "apply_to": "update"}),
)


@dataclass(frozen=True)
class Setting:
    """A model with its sentences, and what is tried on it.

    Attributes:
        optimizers: step sizes by the component's name.
        batch: sentences of a step.
        measured: sentences of each kind that a loss is measured on.
    """

    label: str
    source: Sentences
    ways: tuple[Way, ...]
    optimizers: dict[str, float]
    batch: int
    measured: int


def curve(way: Way, optimizer: Optimizer[Any], setting: Setting, seed: int) -> list[float]:
    """Return the losses on training sentences after each of STEPS steps, and on others after the last."""
    component, source = way.component(), setting.source
    model = component.prepare(sharing(source.model), torch.Generator().manual_seed(seed)).train()
    batch = Batch(source.fresh.inputs[:SENTENCES], source.fresh.labels[:SENTENCES])
    trainer = Trainer(model, optimizer, component)
    losses: list[float] = []
    torch.manual_seed(seed)
    for number, chosen in enumerate(choices(SENTENCES, STEPS[-1], seed, setting.batch), 1):
        trainer.step(model, batch.inputs[chosen], batch.labels[chosen])
        if number in STEPS:
            losses.append(loss_on(model, batch, setting.measured))
    return [*losses, loss_on(model, source.test, setting.measured)]


@torch.no_grad()
def loss_on(model: nn.Module, batch: Batch, count: int) -> float:
    """Return the mean loss on the first sentences without dropout, 25 at a time."""
    model.eval()
    parts = zip(batch.inputs[:count].split(25), batch.labels[:count].split(25), strict=True)
    losses = [cross_entropy(model(inputs), labels).item() * len(inputs) for inputs, labels in parts]
    model.train()
    return sum(losses) / count


def rows(setting: Setting) -> Iterator[Row]:
    """Yield the losses of all ways with all optimizers."""
    for optimizer, rate in setting.optimizers.items():
        method = registry.get("component", optimizer)
        settings = method.config.model_validate({"learning_rate": rate})
        for way in setting.ways:
            curves = [curve(way, method.make(settings), setting, seed) for seed in range(SEEDS)]
            names = (*(f"after {number}" for number in STEPS), "of others")
            for what, values in zip(names, zip(*curves, strict=True), strict=True):
                yield measured(
                    f"{way.label}: loss {what}", f"{setting.label}, {optimizer} {rate:g}", values, "nats a token", ""
                )


def large() -> Setting:
    """Return SmolLM2-135M and sentences in its tokens."""
    source = registry.get("dataset", "lee-news")
    data = source.make(source.config.model_validate({"length": 16, "tokenizer": "smollm2-135m"}))
    method = registry.get("model", "smollm2-135m")
    sentences = Sentences(method.make(method.config(), data.spec), data.train, data.test)
    compared = (WAYS[0], WAYS[1], WAYS[4])
    return Setting("SmolLM2-135M", sentences, compared, {"adam": 2e-4}, batch=4, measured=50)


def small() -> Setting:
    """Return a tiny Llama that knows some news."""
    return Setting("tiny Llama", trained(), WAYS, {"adam": 3e-3, "sgd": 1.0}, batch=8, measured=SENTENCES)


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    return as_they_come(rows(large() if full else small()))


if __name__ == "__main__":
    main(measure, __doc__ or "")
