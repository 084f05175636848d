"""Codes on the heads of a language model: the price in loss, and whether forcing codes puts a word into its text.

A tiny Llama learns 1,000 news sentences with a codebook on every head, k = 1. Of each head the code is taken whose
firing makes a word the likeliest to come next, on the training text; in all heads at once it is forced at every new
position while the model goes on with the beginnings of test sentences. Controls: nothing forced, and random codes.
Paper: Tamkin, Taufeeque, Goodman 2023, arXiv 2310.17230, section 5, where topics are steered in larger models.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from benchmarks._rows import Row, main, measured
from benchmarks._small_language_model import Trainer, choices
from fedsim.components.bottleneck.codebook import Codebook, CodebookConfig, codebooks, force_codes, reading
from fedsim.core import registry, seeding
from fedsim.core.hooks import Condition
from fedsim.core.losses import IGNORED, per_example
from fedsim.core.types import Batch, Dataset, Limits
from fedsim.generation import generate

LENGTH, KNOWN, STEPS, CODES, HEADS = 16, 1000, 600, 200, 4
WORDS, PROMPTS, BEGINNING, WRITTEN, FEWEST = 20, 25, 4, 8, 5


def measure(is_full: bool) -> list[Row]:
    """Return the rows; with `is_full`, of a training three times as long."""
    source = registry.get("dataset", "lee-news")
    data = source.make(source.config.model_validate({"length": LENGTH}))
    steps = STEPS * (3 if is_full else 1)
    plain, quantised = _trained(data, steps, False), _trained(data, steps, True)
    setting = f"{steps} steps, C = {CODES}, k = 1, {HEADS} heads in 2 blocks"
    rows = [
        measured("loss on test sentences, plain model", setting, _losses(plain, data.test), "nats", ""),
        measured("loss on test sentences, with codebooks", setting, _losses(quantised, data.test), "nats", ""),
    ]
    return [*rows, *_steered(quantised, data, setting)]


def _trained(data: Dataset, steps: int, is_quantised: bool) -> nn.Module:
    method = registry.get("model", "tiny-llama")
    torch.manual_seed(0)
    model = method.make(method.config.model_validate({"heads": HEADS}), data.spec).train()
    if is_quantised:
        settings = {"at": ["*.self_attn.o_proj"], "side": "input", "groups": HEADS, "codes": CODES, "active": 1}
        component = Codebook(CodebookConfig.model_validate(settings))
        model = component.prepare(model, torch.Generator().manual_seed(0))
    trainer = Trainer(model, 3e-3)
    for chosen in choices(KNOWN, steps, 0):
        trainer.step(model, data.train.inputs[chosen], data.train.labels[chosen])
    return model.eval()


@torch.no_grad()
def _losses(model: nn.Module, batch: Batch) -> list[float]:
    pairs = zip(batch.inputs.split(64), batch.labels.split(64), strict=True)
    return torch.cat([per_example(model(inputs), labels) for inputs, labels in pairs]).tolist()


def _steered(model: nn.Module, data: Dataset, setting: str) -> list[Row]:
    """Return how often words are written: n is the words, a value the share of the texts that hold one."""
    following = data.train.labels[:KNOWN]
    words = torch.bincount(following[following != IGNORED], minlength=data.spec.classes).topk(2 * WORDS).indices[WORDS:]
    best = _best_codes(model, Batch(data.train.inputs[:KNOWN], following), words)
    enough = (data.test.labels != IGNORED).sum(1) >= BEGINNING
    prompts = data.test.inputs[enough][:PROMPTS, :BEGINNING].tolist()
    random = torch.randint(CODES, (WORDS, len(codebooks(model)), HEADS), generator=torch.Generator().manual_seed(1))
    untouched = _written(model, prompts, None)
    nothing = [_share(untouched, word) for word in words.tolist()]
    wrong, right = (
        [_share(_written(model, prompts, code), word) for code, word in zip(codes, words.tolist(), strict=True)]
        for codes in (random, best)
    )
    mean = sum(right) / WORDS
    chance = sum(nothing) / WORDS
    return [
        measured("texts with the word, nothing forced", setting, nothing, "share", "", chance),
        measured("texts with the word, random codes forced", setting, wrong, "share", "", sum(wrong) / WORDS),
        measured("texts with the word, its codes forced", setting, right, "share", f"> {chance:.4g}", mean),
    ]


@torch.no_grad()
def _best_codes(model: nn.Module, batch: Batch, words: Tensor) -> Tensor:
    """Return the code of each head behind whose firing a word follows most often, shape (words, places, heads)."""
    with reading(model) as seen:
        for inputs in batch.inputs.split(64):
            model(inputs)
    real, best = batch.labels != IGNORED, list[Tensor]()
    follows = (batch.labels[real][:, None] == words).double()
    for codes in (torch.cat(pieces)[real][..., 0] for pieces in seen.values()):
        for head in codes.unbind(1):
            fired = torch.bincount(head, minlength=CODES)[:, None]
            precision = torch.zeros(CODES, len(words), dtype=torch.double).index_add(
                0, head, follows
            ) / fired.clamp_min(1)
            best.append(precision.masked_fill(fired < FEWEST, -1.0).argmax(0))
    return torch.stack(best, 1).unflatten(1, (-1, HEADS))


@torch.no_grad()
def _written(model: nn.Module, prompts: Sequence[Sequence[int]], codes: Tensor | None) -> list[list[int]]:
    """Return how the model goes on, with these codes (places, heads) at the last token of a beginning and behind it."""
    with ExitStack() as stack:
        for place, head_codes in zip(
            codebooks(model), () if codes is None else codes.tolist(), strict=codes is not None
        ):
            for head, code in enumerate(head_codes):
                where = slice(BEGINNING - 1, None)
                stack.enter_context(force_codes(model, place, [code], group=head, positions=where))
        decoder = registry.get("component", "greedy")
        sources = seeding.generators(0, "written", [(row,) for row in range(len(prompts))])
        condition = Condition(tuple(tuple(prompt) for prompt in prompts))
        limits = Limits(max_new_tokens=WRITTEN)
        texts = generate(decoder.make(decoder.config()), model, condition, limits, sources)
        return [list(text.tokens) for text in texts]


def _share(texts: Sequence[Sequence[int]], word: int) -> float:
    return sum(word in text for text in texts) / len(texts)


if __name__ == "__main__":
    main(measure, __doc__ or "")
