"""What a real language model costs here: loading, writing text, and reading a client's text off its gradient.

SmolLM2-135M-Instruct on one thread, as experiments run it. Reported are the seconds to load the converted checkpoint;
the time of greedy text over that of transformers' own `generate`, in turns and with as many tokens; and DAGER alone,
without the client's training, on batches of news sentences, with the share of these that came back exactly. Then what a
step of low-rank adapters costs beside peft's. Seconds are processor time of one thread, so that other programs on the
machine count less. Of adapters the server has taken one step of Adam, as before their second round.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._passes import time_alternately, timed
from benchmarks._rows import Row, mean_row, median_row, ratio, share
from benchmarks._victims import gradient_seen, make_attack, try_attack
from fedsim.core import registry
from fedsim.core.nets.checkpoints import SMOLLM2, quiet, smollm2
from fedsim.core.nets.losses import IGNORED, cross_entropy
from fedsim.core.types import Batch, Dataset, InputSpec, Observation
from fedsim.metrics.text import score_sentences
from fedsim.models._checkpoint import causal_model

EXAMPLES, LENGTH, RANK, ALPHA = 4, 32, 8, 16
PLACES = ("q_proj", "v_proj")
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
        model = ours(causal_model(smollm2(), dataset.spec), "lora", places).train()
        _step_once(model, dataset)
        rows = RANK * len(places)
        words = f", rank {RANK} on {', '.join(places)}: {rows} rows"
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
    yield from adapter_rows(causal_model(smollm2(), _SPEC), _TOKENS, passes, "135M")


def loading_rows() -> Iterator[Row]:
    """Yield the time until a fresh model has scored its first token, transformers being imported."""
    causal_model(smollm2(), _SPEC)
    token = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        seconds = [timed(lambda: causal_model(smollm2(), _SPEC)(token))[1] for _ in range(5)]
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
        other = timed(generated)[1]
        ratios.append(timed(partial(ours.generate_greedy, prompt, _WRITTEN))[1] / other)
    setting = f"135M, {prompt.shape[1]} tokens and {_WRITTEN} more"
    return [
        median_row("greedy text, over that of generate", setting, ratios, "x", "<= 1.0"),
        median_row("greedy text is the same", setting, [float(same)], "share", ">= 1"),
    ]


def reading(model: nn.Module, dataset: Dataset, size: int, must: str, trials: int, words: str = "") -> list[Row]:
    """Return what DAGER takes on batches of so many sentences, what it reads, and how many it refuses."""
    attack, seconds, exact, refused = make_attack("dager"), list[float](), list[float](), list[float]()
    assert dataset.tokenizer is not None
    long = (dataset.train.labels != IGNORED).all(1).nonzero().squeeze(1)
    for trial in range(trials):
        source = torch.Generator().manual_seed(trial)
        chosen = long[torch.randperm(len(long), generator=source)[:size]]
        batch = dataset.train.select(chosen)
        guess, taken = try_attack(attack, observe_gradient(model, batch, dataset), trial, "attack")
        seconds.append(taken)
        refused.append(float(guess is None))
        scored = score_sentences(guess, batch, dataset.tokenizer).sentences if guess else ()
        exact.append(sum(sentence.values["exact"] for sentence in scored) / size)
    setting = f"135M, {size} x {dataset.spec.shape[0]} tokens{words}"
    return [
        median_row("DAGER, the attack alone", setting, seconds, "s", must),
        mean_row("DAGER, exact sentences", setting, exact, "share"),
        share("DAGER, batches refused", setting, refused),
    ]


def observe_gradient(model: nn.Module, batch: Batch, dataset: Dataset) -> Observation:
    """Return what a server sees of one gradient of all weights that are trained."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loss = cross_entropy(model(batch.inputs), batch.labels)
    gradient = torch.autograd.grad(loss, list(parameters.values()))
    return gradient_seen(model, dict(zip(parameters, gradient, strict=True)), batch, dataset.spec, dataset.task)


def share_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares its weights, so that several fit into memory."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def ours(model: nn.Module, name: str, places: tuple[str, ...], **settings: Any) -> nn.Module:
    """Return a copy with the adapters of one of the project's components."""
    method = registry.get("component", name)
    config = method.config.model_validate({"targets": [f"*.{place}" for place in places], "rank": RANK, **settings})
    return method.make(config).prepare(share_weights(model), torch.Generator().manual_seed(0))


def theirs(model: nn.Module, places: tuple[str, ...], dropout: float) -> nn.Module:
    """Return a copy with peft's LoRA."""
    from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - takes seconds to import

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(places), lora_dropout=dropout)
    return inject_adapter_in_model(config, share_weights(model))


def step(model: nn.Module, tokens: Tensor) -> Callable[[int], None]:
    """Return one training step, to be called with the pass's number."""
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)

    def take(_number: int) -> None:
        optimizer.zero_grad()
        cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()
        optimizer.step()

    return take


def adapter_rows(model: nn.Module, vocabulary: int, passes: int, label: str) -> Iterator[Row]:
    """Yield ratios for LoRA with and without dropout, ALLoRA, and peft's own LoRA once more.

    Args:
        model: of the names of the Llama family.
        vocabulary: number of its tokens.
        passes: of every way, two at least.
        label: of the model, for the rows.
    """
    tokens = torch.randint(vocabulary, (EXAMPLES, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    ways = {
        "LoRA": ours(model, "lora", PLACES, alpha=ALPHA),
        "LoRA, p = 0.1": ours(model, "lora", PLACES, alpha=ALPHA, dropout=0.1),
        "ALLoRA": ours(model, "allora", PLACES),
    }
    others = [theirs(model, PLACES, dropout) for dropout in (0.0, 0.1, 0.0)]
    *of_ways, plain, dropped, again = time_alternately([step(m, tokens) for m in (*ways.values(), *others)], passes)
    setting = f"adapters on queries and values, {label}, {EXAMPLES} x {LENGTH} tokens, rank {RANK}"
    for name, seconds in zip(ways, of_ways, strict=True):
        under, against = (dropped, "peft's LoRA, p = 0.1") if "0.1" in name else (plain, "peft's LoRA")
        yield ratio(f"{name} / {against}: a step", setting, seconds, under, "<= 1.0")
    yield ratio("peft's LoRA / peft's LoRA: a step", setting, again, plain)
