"""What a real language model costs here: loading, writing text, and reading a client's text off its gradient.

SmolLM2-135M-Instruct on one thread, as experiments run it. Reported are the seconds to load the converted checkpoint;
the time of greedy text over that of transformers' own `generate`, in turns and with as many tokens; and DAGER alone,
without the client's training, on batches of news sentences, with the share of these that came back exactly. Then what a
step of low-rank adapters costs beside peft's. Seconds are processor time of one thread, so that other programs on the
machine count less.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _adapter_rows
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, averaged, measured
from fedsim.core import registry, seeding
from fedsim.core.checkpoints import SMOLLM2, quiet, smollm2
from fedsim.core.losses import IGNORED, cross_entropy
from fedsim.core.types import Batch, Dataset, InputSpec, Observation, Reconstruction, ThreatModel, Update
from fedsim.metrics.text import score_sentences
from fedsim.models._checkpoint import causal_model
from fedsim.scenario import Choice

_LENGTH, _TOKENS, _WRITTEN = 16, 49_152, 32
_SPEC = InputSpec((_LENGTH,), _TOKENS, (), (), vocabulary=_TOKENS)
_SIZES = {1: "<= 5", 8: "<= 60"}
_PROMPT = "The capital of France is a city in which"


@experiment("language", minutes=4, page="benchmarks/language")
def language(budget: Budget) -> Cells:
    """Return the cells; the long version attacks 20 batches of each size."""
    trials = 20 if budget.full else 5
    reads = {f"DAGER, {size} sentences": partial(_read, size, must, trials) for size, must in _SIZES.items()}
    return {"loading": loading, "writing": writing, **reads, "adapters": partial(_stepped, 40 if budget.full else 8)}


def _read(size: int, must: str, trials: int) -> list[Row]:
    news = registry.get("dataset", "lee-news")
    dataset: Dataset = news.make(news.config.model_validate({"length": _LENGTH, "tokenizer": SMOLLM2, "seed": 1}))
    return reading(causal_model(smollm2(), _SPEC).train(), dataset, size, must, trials)


def _stepped(passes: int) -> Iterator[Row]:
    yield from _adapter_rows.rows(causal_model(smollm2(), _SPEC), _TOKENS, passes, "135M")


def loading() -> Iterator[Row]:
    """Yield the time until a fresh model has scored its first token, transformers being imported."""
    causal_model(smollm2(), _SPEC)
    token = torch.zeros(1, 1, dtype=torch.long)
    seconds: list[float] = []
    for _ in range(5):
        begin = time.process_time()
        with torch.no_grad():
            causal_model(smollm2(), _SPEC)(token)
        seconds.append(time.process_time() - begin)
    yield measured("loading the converted checkpoint, and one token", "135M, 538 MB", seconds, "s", "<= 2")


def writing() -> list[Row]:
    """Return what greedy text costs beside transformers' own, in turns; both must write the same."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - an extra

    with quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32)
    theirs, ours = loaded.eval(), causal_model(smollm2(), _SPEC).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2())
    prompt = torch.tensor([tokenizer(_PROMPT)["input_ids"]])
    options: dict[str, Any] = {"do_sample": False, "max_new_tokens": _WRITTEN, "min_new_tokens": _WRITTEN}

    def generated() -> Tensor:
        return theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[:, prompt.shape[1] :]

    same = bool(torch.equal(generated(), ours.continued(prompt, _WRITTEN)))
    ratios: list[float] = []
    for _ in range(5):
        other = _seconds(generated)
        ratios.append(_seconds(lambda: ours.continued(prompt, _WRITTEN)) / other)
    setting = f"135M, {prompt.shape[1]} tokens and {_WRITTEN} more"
    return [
        measured("greedy text, over that of generate", setting, ratios, "x", "<= 1.0"),
        measured("greedy text is the same", setting, [float(same)], "share", ">= 1"),
    ]


def reading(model: nn.Module, dataset: Dataset, size: int, must: str, trials: int) -> list[Row]:
    """Return what DAGER takes on batches of so many sentences, and what it reads."""
    method = registry.get("attack", "dager")
    attack = method.make(method.config())
    seconds: list[float] = []
    exact: list[float] = []
    assert dataset.tokenizer is not None
    long = (dataset.train.labels != IGNORED).all(1).nonzero().squeeze(1)
    for trial in range(trials):
        source = torch.Generator().manual_seed(trial)
        chosen = long[torch.randperm(len(long), generator=source)[:size]]
        batch = Batch(dataset.train.inputs[chosen], dataset.train.labels[chosen])
        observation = observed(model, batch, dataset)
        begin = time.process_time()
        reconstruction: Reconstruction = attack(observation, seeding.generator(trial, "attack"))
        seconds.append(time.process_time() - begin)
        scored = score_sentences(reconstruction, batch, dataset.tokenizer).sentences
        exact.append(sum(sentence.values["exact"] for sentence in scored) / size)
    setting = f"135M, {size} x {dataset.spec.shape[0]} tokens"
    return [
        measured("DAGER, the attack alone", setting, seconds, "s", must),
        averaged("DAGER, exact sentences", setting, exact, "share"),
    ]


def observed(model: nn.Module, batch: Batch, dataset: Dataset) -> Observation:
    """Return what a server sees of one gradient of all weights."""
    parameters = dict(model.named_parameters())
    loss = cross_entropy(model(batch.inputs), batch.labels)
    gradient = torch.autograd.grad(loss, list(parameters.values()))
    tensors = dict(zip(parameters, gradient, strict=True))
    return Observation(
        threat=ThreatModel(knows=("batch-size", "dropout-rates")),
        model=model,
        loss=cross_entropy,
        update=Update("gradient", tensors, {}, len(batch), float(loss.detach())),
        spec=dataset.spec,
        local_steps=1,
        learning_rate=1.0,
        sites=(),
        batch_size=len(batch),
        labels=None,
        masks=None,
        public=(),
        task=Choice(name=dataset.task).make("task"),
    )


def _seconds(work: Any) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
