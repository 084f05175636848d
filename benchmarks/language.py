"""What a real language model costs here: loading, writing text, and reading a client's text off its gradient.

SmolLM2-135M-Instruct on one thread, as experiments run it. Reported are the seconds to load the converted checkpoint;
the time of greedy text over that of transformers' own `generate`, in turns and with as many tokens; and DAGER alone,
without the client's training, on batches of news sentences, with the share of these that came back exactly. Then what a
step of low-rank adapters costs beside peft's. Seconds are processor time of one thread, so that other programs on the
machine count less. Of adapters the server has taken one step of Adam, as before their second round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import _adapter_rows
from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, mean_row, median_row, share
from fedsim.core import registry, seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import Attack
from fedsim.core.nets.checkpoints import SMOLLM2, quiet, smollm2
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.types import Batch, Dataset, InputSpec, Observation, Reconstruction, ThreatModel, Update
from fedsim.metrics.text import score_sentences
from fedsim.models._checkpoint import causal_model
from fedsim.scenario import Choice

_LENGTH, _TOKENS, _WRITTEN = 16, 49_152, 32
_SPEC = InputSpec((_LENGTH,), _TOKENS, (), (), vocabulary=_TOKENS)
_SIZES = {1: "<= 5", 8: "<= 10", 16: "<= 20", 32: "<= 60", 40: ""}
_ADAPTED = (  # queries and values, or keys too; sentences of a batch; tokens of each
    (("q_proj", "v_proj"), 1, 15),
    (("q_proj", "v_proj"), 1, 16),
    (("q_proj", "k_proj", "v_proj"), 1, 16),
    (("q_proj", "k_proj", "v_proj"), 2, 11),
    (("q_proj", "k_proj", "v_proj"), 2, 12),
)
_STEP = 1e-3
_PROMPT = "The capital of France is a city in which"


@experiment("language", minutes=6, page="benchmarks/language")
def language(budget: Budget) -> Cells:
    """Return the cells; the long version attacks 20 batches of each size."""
    trials = 20 if budget.full else 5
    reads = {f"DAGER, {size} sentences": partial(_read, size, must, trials) for size, must in _SIZES.items()}
    adapted = {"DAGER, adapters of rank 8": partial(_read_adapters, trials)}
    steps = {"adapters": partial(_step_rows, 40 if budget.full else 8)}
    return {"loading": loading_rows, "writing": writing, **reads, **adapted, **steps}


def _read(size: int, must: str, trials: int) -> list[Row]:
    return reading(causal_model(smollm2(), _SPEC).train(), _news(_LENGTH), size, must, trials)


def _read_adapters(trials: int) -> Iterator[Row]:
    """Yield what DAGER reads with fewer tokens in a batch than the adapters of a block have rows, and with as many."""
    for places, size, length in _ADAPTED:
        dataset = _news(length)
        model = _adapter_rows.ours(causal_model(smollm2(), dataset.spec), "lora", places).train()
        _step_once(model, dataset)
        rows = _adapter_rows.RANK * len(places)
        words = f", rank {_adapter_rows.RANK} on {', '.join(places)}: {rows} rows"
        yield from reading(model, dataset, size, "", trials, words)


def _step_once(model: nn.Module, dataset: Dataset) -> None:
    """Take one step of Adam along the gradient of the first sentences."""
    update = observe_gradient(model, dataset.train.select(torch.arange(8)), dataset).update.tensors
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data -= _STEP * update[name].sign()


def _news(length: int) -> Dataset:
    news = registry.get("dataset", "lee-news")
    return news.make(news.config.model_validate({"length": length, "tokenizer": SMOLLM2, "seed": 1}))


def _step_rows(passes: int) -> Iterator[Row]:
    yield from _adapter_rows.rows(causal_model(smollm2(), _SPEC), _TOKENS, passes, "135M")


def loading_rows() -> Iterator[Row]:
    """Yield the time until a fresh model has scored its first token, transformers being imported."""
    causal_model(smollm2(), _SPEC)
    token = torch.zeros(1, 1, dtype=torch.long)
    seconds: list[float] = []
    for _ in range(5):
        begin = time.process_time()
        with torch.no_grad():
            causal_model(smollm2(), _SPEC)(token)
        seconds.append(time.process_time() - begin)
    yield median_row("loading the converted checkpoint, and one token", "135M, 538 MB", seconds, "s", "<= 2")


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

    same = bool(torch.equal(generated(), ours.generate_greedy(prompt, _WRITTEN)))
    ratios: list[float] = []
    for _ in range(5):
        other = _seconds(generated)
        ratios.append(_seconds(lambda: ours.generate_greedy(prompt, _WRITTEN)) / other)
    setting = f"135M, {prompt.shape[1]} tokens and {_WRITTEN} more"
    return [
        median_row("greedy text, over that of generate", setting, ratios, "x", "<= 1.0"),
        median_row("greedy text is the same", setting, [float(same)], "share", ">= 1"),
    ]


def reading(model: nn.Module, dataset: Dataset, size: int, must: str, trials: int, words: str = "") -> list[Row]:
    """Return what DAGER takes on batches of so many sentences, what it reads, and how many it refuses."""
    method = registry.get("attack", "dager")
    attack = method.make(method.config())
    seconds: list[float] = []
    exact: list[float] = []
    refused: list[float] = []
    assert dataset.tokenizer is not None
    long = (dataset.train.labels != IGNORED).all(1).nonzero().squeeze(1)
    for trial in range(trials):
        source = torch.Generator().manual_seed(trial)
        chosen = long[torch.randperm(len(long), generator=source)[:size]]
        batch = Batch(dataset.train.inputs[chosen], dataset.train.labels[chosen])
        observation = observe_gradient(model, batch, dataset)
        begin = time.process_time()
        guess = _guess_trial(attack, observation, trial)
        seconds.append(time.process_time() - begin)
        refused.append(float(guess is None))
        scored = score_sentences(guess, batch, dataset.tokenizer).sentences if guess else ()
        exact.append(sum(sentence.values["exact"] for sentence in scored) / size)
    setting = f"135M, {size} x {dataset.spec.shape[0]} tokens{words}"
    return [
        median_row("DAGER, the attack alone", setting, seconds, "s", must),
        mean_row("DAGER, exact sentences", setting, exact, "share"),
        share("DAGER, batches refused", setting, refused),
    ]


def _guess_trial(attack: Attack[Any], observation: Observation, trial: int) -> Reconstruction | None:
    """Return what an attack guesses; None where it refuses."""
    try:
        return attack(observation, seeding.generator(trial, "attack"))
    except NotApplicable as reason:
        print(f"dager: {reason}", file=sys.stderr)
        return None


def observe_gradient(model: nn.Module, batch: Batch, dataset: Dataset) -> Observation:
    """Return what a server sees of one gradient of all weights that are trained."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
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
        known_methods=(),
        task=Choice(name=dataset.task).make("task"),
    )


def _seconds(work: Any) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
