"""Lexical units on SmolLM2-135M, tuned with and without pad blocks: tokens a pass, agreement, pace, membership.

Low-rank adapters of rank 16 on all linear layers are tuned on 200 sentences of Lee's news and 200 pieces of Python's
own library, for two passes; one model also learns pads, the other, the control, is decoded with a pad that nobody
trained. The first call tunes both, in a quarter of an hour on a free core, and keeps them in the user's cache. A token
follows in a unit from probability 0.5, by which units are as long as in the paper. Texts go on from the first 12 tokens
of news and code that nobody trained on, by 24 tokens. Agreement is ROUGE-L, on tokens, with the greedy text of the same
model; pace is processor time against greedy, prompt by prompt. Members are told by tokens a step: the area under the
ROC curve. Intervals are by bootstrap over the texts.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
import sysconfig  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.stats import bootstrap  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._decoding import cost, news, real_model, write  # noqa: E402
from benchmarks._rows import Row, averaged, main, measured  # noqa: E402
from benchmarks._small_language_model import choices  # noqa: E402
from fedsim.components.adapter._low_rank import adapters_off  # noqa: E402
from fedsim.components.loss._pads import draw_blocks, pack, pad_of, read, units  # noqa: E402
from fedsim.components.loss.pad_blocks import PadBlocksConfig, sure_of  # noqa: E402
from fedsim.core import checkpoints, registry  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.losses import IGNORED, cross_entropy  # noqa: E402
from fedsim.core.past import stack_of  # noqa: E402
from fedsim.core.types import Batch, Generated, Limits, Tokenizer  # noqa: E402

_LENGTH, _BATCH, _OF_EACH, _PASSES, _RATE = 32, 8, 200, 2, 5e-4
_BEGINNING, _WRITTEN = 12, 24
_BETAS = (0.7, 0.9, 0.97)
_FILE = "trained.pt"
_PADS = PadBlocksConfig(sure=0.5, blocks=6)
_PER_FILE = 8
WITH, WITHOUT = "tuned with pads", "tuned without (control)"


class Texts(NamedTuple):
    """What is trained on, and what nobody trains on, by kind."""

    train: Batch
    test: dict[str, Batch]
    tokenizer: Tokenizer


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version goes on from 30 texts of each kind instead of 12."""
    data, rows, count = texts(), list[Row](), 30 if full else 12
    for way in (WITH, WITHOUT):
        model = tuned(data.train, way == WITH)
        for place, (kind, test) in enumerate(data.test.items()):
            asked = begun(test, 0, count)
            rows += compare(model, f"{kind}, {way}", asked, data.tokenizer)
            members = begun(data.train, place * _OF_EACH, count)
            rows.append(told(model, f"{kind}, {way}", members, asked, data.tokenizer))
    return rows


def texts() -> Texts:
    """Return sentences of news, and pieces of the modules of Python's library in alphabetical order."""
    data = news(_LENGTH)
    assert data.tokenizer is not None
    pieces: list[list[int]] = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py")):
        tokens = data.tokenizer.encode(file.read_text(encoding="utf-8", errors="replace"))
        parts = [tokens[start : start + _LENGTH + 1] for start in range(0, len(tokens) - _LENGTH, _LENGTH + 1)]
        pieces += parts[:: max(1, len(parts) // _PER_FILE)][:_PER_FILE]
    code = torch.tensor(pieces)
    known = Batch(code[:_OF_EACH, :-1], code[:_OF_EACH, 1:])
    train = Batch(
        torch.cat((data.train.inputs[:_OF_EACH], known.inputs)), torch.cat((data.train.labels[:_OF_EACH], known.labels))
    )
    # Modules further down the alphabet, so that no test piece is of a module that was trained on.
    fresh = code[_OF_EACH + _PER_FILE :]
    return Texts(train, {"news": data.test, "code": Batch(fresh[:, :-1], fresh[:, 1:])}, data.tokenizer)


def begun(batch: Batch, first: int, count: int) -> Condition:
    """Return the first tokens of texts that are longer, from the first on that is asked for."""
    inputs, labels = batch.inputs[first:], batch.labels[first:]
    enough = (labels != IGNORED).sum(1) > _BEGINNING
    return Condition(tuple(tuple(own) for own in inputs[enough][:count, :_BEGINNING].tolist()))


def prepared() -> nn.Module:
    """Return the model with fresh adapters and a fresh pad."""
    model, generator = real_model(_LENGTH), torch.Generator().manual_seed(0)
    targets = [f"*.{own}_proj" for own in ("q", "k", "v", "o", "gate", "up", "down")]
    for name, settings in (("lora", {"targets": targets, "rank": 16, "alpha": 32.0}), ("pad-blocks", {})):
        method = registry.get("component", name)
        model = method.make(method.config.model_validate(settings)).prepare(model, generator)
    return model


def tuned(train: Batch, has_pads: bool) -> nn.Module:
    """Return the model after its tuning, from the cache if it was tuned before."""
    model = prepared()
    trained = {name: own for name, own in model.named_parameters() if own.requires_grad}

    def save(folder: Path) -> None:
        tune(model, train, has_pads)
        torch.save({name: own.detach() for name, own in trained.items()}, folder / _FILE)

    name = f"lexical-unit-{'pads' if has_pads else 'plain'}-{2 * _OF_EACH}x{_PASSES}-{_RATE:g}"
    folder = checkpoints.make_once(name, save)
    model.load_state_dict(torch.load(folder / _FILE, weights_only=True), strict=False)
    return model.eval()


def tune(model: nn.Module, batch: Batch, has_pads: bool) -> None:
    """Train adapters, and the pad, in one pass a step: the text with its blocks behind it."""
    stack, pad, generator = stack_of(model), pad_of(model), torch.Generator().manual_seed(1)
    assert stack is not None
    assert pad is not None
    lengths = marked(model, batch) if has_pads else []
    optimizer = torch.optim.AdamW([own for own in model.parameters() if own.requires_grad], lr=_RATE)
    steps = _PASSES * len(batch) // _BATCH
    for number, chosen in enumerate(choices(len(batch), steps, 0, _BATCH)):
        own = [lengths[row] if has_pads else [] for row in chosen.tolist()]
        inputs, labels = batch.inputs[chosen], batch.labels[chosen]
        blocks = [draw_blocks(row, _PADS.blocks, _PADS.most, _PADS.unsure, generator) for row in own]
        room = max(sum(block.pads for block in row) for row in blocks)
        packed = pack(inputs, labels, blocks, pad, room)
        scores = read(stack, packed)
        loss = cross_entropy(scores[:, : inputs.shape[1]], labels)
        loss = loss + cross_entropy(scores[:, inputs.shape[1] :], packed.targets) if room else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {number + 1} of {steps}: {loss.item():.3f}", file=sys.stderr, flush=True)


@torch.no_grad()
def marked(model: nn.Module, batch: Batch) -> list[list[int]]:
    """Return the lengths of the units of each text under the model without its adapters."""
    found: list[list[int]] = []
    with adapters_off(model):
        for inputs, labels in zip(batch.inputs.split(_BATCH), batch.labels.split(_BATCH), strict=True):
            found += [units(row, _PADS.sure, _PADS.most) for row in sure_of(_odds(model, inputs), labels)]
    return found


def _odds(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs).softmax(-1)


def compare(model: nn.Module, way: str, asked: Condition, tokenizer: Tokenizer) -> list[Row]:
    """Return what spans gain and lose beside the model's own greedy text."""
    ways = {"greedy": ("greedy", {})} | {f"beta {beta:g}": ("lexical-unit", {"beta": beta}) for beta in _BETAS}
    found: dict[str, list[Generated]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for place in range(len(asked)):
        for name, (decoder, settings) in ways.items():
            begin = time.process_time()
            found[name] += write(
                decoder, settings, model, asked.keep([place]), Limits(max_new_tokens=_WRITTEN), tokenizer
            )
            seconds[name].append(time.process_time() - begin)
    rows: list[Row] = []
    greedy = found["greedy"]
    for name in list(ways)[1:]:
        setting, own = f"{way}, {name}", found[name]
        pace = [slow / fast for slow, fast in zip(seconds["greedy"], seconds[name], strict=True)]
        same = [rouge(text.tokens, other.tokens) for text, other in zip(own, greedy, strict=True)]
        worse = [
            cost(model, prompt, text.tokens) - cost(model, prompt, other.tokens)
            for prompt, text, other in zip(asked.prompts, own, greedy, strict=True)
        ]
        rows.append(averaged("tokens a pass", setting, [paces(text) for text in own], "tokens", ""))
        rows.append(averaged("agreement with greedy", setting, same, "ROUGE-L", ""))
        rows.append(averaged("cost - greedy's", setting, worse, "nats a token", ""))
        rows.append(measured("pace / greedy's", setting, pace, "times", ""))
    return rows


def paces(text: Generated) -> float:
    """Return the tokens of a step, on average."""
    return len(text.tokens) / len(text.trace.tokens)


def rouge(own: Sequence[int], other: Sequence[int]) -> float:
    """Return the F1 of the longest common subsequence of two texts of equal length."""
    row = [0] * (len(other) + 1)
    for token in own:
        before = row
        row = [0]
        for place, again in enumerate(other):
            row.append(before[place] + 1 if token == again else max(before[place + 1], row[-1]))
    return 2 * row[-1] / (len(own) + len(other))


def told(model: nn.Module, way: str, members: Condition, others: Condition, tokenizer: Tokenizer) -> Row:
    """Return how well tokens a step tell beginnings that were trained on from others."""
    settings, limits = {"beta": 0.9}, Limits(max_new_tokens=_WRITTEN)
    found = [
        [paces(own) for own in write("lexical-unit", settings, model, asked, limits, tokenizer)]
        for asked in (members, others)
    ]

    def area(some: np.ndarray, more: np.ndarray) -> float:
        over, under = np.asarray(some)[:, None], np.asarray(more)
        return float((over > under).mean() + (over == under).mean() / 2)

    source = np.random.default_rng(0)
    bounds = bootstrap(found, area, vectorized=False, method="percentile", n_resamples=2000, rng=source)
    low, high = bounds.confidence_interval
    value = area(np.array(found[0]), np.array(found[1]))
    return Row(
        "members told by tokens a step", way, value, "area", low, value, high, sum(map(len, found)), "reported", True
    )


if __name__ == "__main__":
    main(measure, __doc__ or "")
