"""Lexical units: tokens a pass, agreement with greedy, pace, and members told, with pads trained and not.

A tiny Llama learns 64 sentences of Lee's news by heart, in 300 steps of 16, and then takes 400 steps more: with pad
blocks, or without, and is decoded with a pad that nobody trained, the control. It goes on from the first four tokens of
sentences that it knows, and of those of the test set, by twelve. The long version does the same with low-rank adapters
(rank 16, all linear layers, 40 steps of 4) on SmolLM2-135M: 100 sentences of the news and 100 pieces of Python's own
library, by 16 tokens behind the first twelve of 8 of each kind; a token follows in a unit from probability 0.5 there,
by which units are about as long as in the paper. Trained weights are kept in the user's cache. Agreement is ROUGE-L, on
tokens, with the greedy text of the same model; pace is processor time against greedy, prompt by prompt. Members are
told by tokens a step: the area under the ROC curve. Intervals are by bootstrap over the texts.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import sys  # noqa: E402
import sysconfig  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._decoding import cost, news, real_model, write  # noqa: E402
from benchmarks._rows import Row, averaged, main, measured, told_apart  # noqa: E402
from benchmarks._small_language_model import Trainer, choices  # noqa: E402
from fedsim.components.adapter._low_rank import adapters_off  # noqa: E402
from fedsim.components.loss._pads import draw_blocks, pack, pad_of, read, units  # noqa: E402
from fedsim.components.loss.pad_blocks import PadBlocksConfig, sure_of  # noqa: E402
from fedsim.core import checkpoints, registry, seeding  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.losses import IGNORED, cross_entropy  # noqa: E402
from fedsim.core.past import stack_of  # noqa: E402
from fedsim.core.types import Batch, Generated, Limits, Tokenizer  # noqa: E402

_PROMPTS = 30
_BETAS = (0.7, 0.9, 0.97)
_FILE = "trained.pt"
_PER_FILE = 8  # pieces of one module
WITH, WITHOUT = "trained with pads", "trained without (control)"


class Subject(NamedTuple):
    """What is trained, on what, and what it writes.

    Attributes:
        name: for the rows.
        model: with a pad that nobody trained; a new one.
        train: texts of both kinds, one behind the other.
        kinds: texts that it was trained on, and others, by a name for the rows.
        tokenizer: of the texts.
        steps: of the training with or without pads.
        batch: texts of a step.
        rate: of AdamW.
        sure: probability from which a token follows in a unit.
        beginning: tokens of a prompt.
        written: tokens behind it.
        prompts: texts of each kind that are begun.
        control: steps of the training without pads; absent: as many as with them.
        mixed: whether training multiplies in bfloat16.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Batch
    kinds: dict[str, tuple[Batch, Batch]]
    tokenizer: Tokenizer
    steps: int
    batch: int
    rate: float
    sure: float
    beginning: int
    written: int
    prompts: int = _PROMPTS
    control: int | None = None
    mixed: bool = False

    def steps_of(self, has_pads: bool) -> int:
        """Return the steps of one of the trainings."""
        return self.steps if has_pads or self.control is None else self.control


def measure(full: bool) -> list[Row]:
    """Return the rows of the tiny Llama; the long version adds those of SmolLM2."""
    return [row for subject in (small, large)[: 1 + full] for row in rows_of(subject())]


def rows_of(subject: Subject) -> Iterator[Row]:
    """Yield the rows of one model, with and without training on pads."""
    for way in (WITH, WITHOUT):
        model = tuned(subject, way == WITH)
        for kind, (known, fresh) in subject.kinds.items():
            prompts = {
                "known": begun(known, subject.beginning, subject.prompts),
                "new": begun(fresh, subject.beginning, subject.prompts),
            }
            for which, condition in prompts.items():
                yield from compare(subject, model, f"{subject.name}, {which} {kind}, {way}", condition)
            yield told_by_pace(subject, model, f"{subject.name}, {kind}, {way}", *prompts.values())


def small() -> Subject:
    """Return the tiny Llama."""
    source = registry.get("dataset", "lee-news")
    data = source.make(source.config.model_validate({"length": 16}))
    known = Batch(data.train.inputs[:64], data.train.labels[:64])
    assert data.tokenizer is not None

    def model() -> nn.Module:
        method = registry.get("model", "tiny-llama")
        with seeding.isolate_randomness(0):
            network = method.make(method.config(), data.spec)

        def save(folder: Path) -> None:
            trainer = Trainer(network, 3e-3)
            for chosen in choices(len(known), 300, 0, 16):
                trainer.step(network, known.inputs[chosen], known.labels[chosen])
            torch.save(network.state_dict(), folder / _FILE)

        network.load_state_dict(
            torch.load(checkpoints.make_once("lexical-unit-known", save) / _FILE, weights_only=True)
        )
        return with_component("pad-blocks", {}, network)

    return Subject("tiny Llama", model, known, {"news": (known, data.test)}, data.tokenizer, 400, 16, 3e-3, 0.9, 4, 12)


def large() -> Subject:
    """Return SmolLM2 with fresh adapters."""
    length, each = 32, 100
    data, code = news(length), pieces(length)
    assert data.tokenizer is not None
    known = [Batch(part.inputs[:each], part.labels[:each]) for part in (data.train, code)]
    train = Batch(torch.cat([batch.inputs for batch in known]), torch.cat([batch.labels for batch in known]))
    # Modules further down the alphabet, so that no new piece is of a module that was trained on.
    fresh = Batch(code.inputs[each + _PER_FILE :], code.labels[each + _PER_FILE :])

    def model() -> nn.Module:
        targets = [f"*.{projection}_proj" for projection in ("q", "k", "v", "o", "gate", "up", "down")]
        network = with_component("lora", {"targets": targets, "rank": 16, "alpha": 32.0}, real_model(length))
        return with_component("pad-blocks", {}, network)

    kinds = {"news": (known[0], data.test), "code": (known[1], fresh)}
    return Subject("SmolLM2-135M", model, train, kinds, data.tokenizer, 40, 4, 1e-3, 0.5, 12, 16, 8)


def with_component(name: str, settings: dict[str, Any], model: nn.Module) -> nn.Module:
    """Return a model that a component has prepared."""
    method = registry.get("component", name)
    return method.make(method.config.model_validate(settings)).prepare(model, torch.Generator().manual_seed(0))


def pieces(length: int) -> Batch:
    """Return pieces of the modules of Python's library, in alphabetical order."""
    tokenizer, rows = news(length).tokenizer, list[list[int]]()
    assert tokenizer is not None
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py")):
        tokens = tokenizer.encode(file.read_text(encoding="utf-8", errors="replace"))
        parts = [tokens[start : start + length + 1] for start in range(0, len(tokens) - length, length + 1)]
        rows += parts[:: max(1, len(parts) // _PER_FILE)][:_PER_FILE]
    code = torch.tensor(rows)
    return Batch(code[:, :-1], code[:, 1:])


def begun(batch: Batch, length: int, count: int) -> Condition:
    """Return the first tokens of texts that are longer."""
    enough = (batch.labels != IGNORED).sum(1) > length
    return Condition(tuple(tuple(row) for row in batch.inputs[enough][:count, :length].tolist()))


def tuned(subject: Subject, has_pads: bool) -> nn.Module:
    """Return a model after its training, from the cache if it was trained before."""
    model = subject.model()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}

    def save(folder: Path) -> None:
        tune(subject, model, has_pads)
        torch.save({name: one.detach() for name, one in trained.items()}, folder / _FILE)

    size = f"{subject.steps_of(has_pads)}x{subject.batch}"
    name = f"lexical-unit-{subject.name.replace(' ', '-')}-{'pads' if has_pads else 'plain'}-{size}"
    folder = checkpoints.make_once(name, save)
    model.load_state_dict(torch.load(folder / _FILE, weights_only=True), strict=False)
    return model.eval()


def tune(subject: Subject, model: nn.Module, has_pads: bool) -> None:
    """Train a model, and its pad, in one pass a step: the texts with their blocks behind them."""
    if not (steps := subject.steps_of(has_pads)):
        return
    stack, pad, generator = stack_of(model), pad_of(model), torch.Generator().manual_seed(1)
    assert stack is not None
    assert pad is not None
    config = PadBlocksConfig(sure=subject.sure, blocks=6)
    lengths = marked(subject, model) if has_pads else []
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=subject.rate)
    for number, chosen in enumerate(choices(len(subject.train), steps, 0, subject.batch)):
        inputs, labels = subject.train.inputs[chosen], subject.train.labels[chosen]
        of_rows = [lengths[row] if has_pads else [] for row in chosen.tolist()]
        blocks = [draw_blocks(row, config.blocks, config.most, config.unsure, generator) for row in of_rows]
        room = max(sum(block.pads for block in row) for row in blocks)
        packed = pack(inputs, labels, blocks, pad, room)
        with torch.autocast("cpu", torch.bfloat16, enabled=subject.mixed):
            scores = read(stack, packed).float()
        loss = cross_entropy(scores[:, : inputs.shape[1]], labels)
        loss = loss + cross_entropy(scores[:, inputs.shape[1] :], packed.targets) if room else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % 10 == 0:
            print(f"step {number} of {steps}: loss {loss.item():.3f}", file=sys.stderr, flush=True)


@torch.no_grad()
def marked(subject: Subject, model: nn.Module) -> list[list[int]]:
    """Return the lengths of the units of each text under the model before this training."""
    most, lengths = PadBlocksConfig().most, list[list[int]]()
    batches = zip(subject.train.inputs.split(subject.batch), subject.train.labels.split(subject.batch), strict=True)
    with adapters_off(model):
        for inputs, labels in batches:
            lengths += [units(row, subject.sure, most) for row in sure_of(model(inputs).softmax(-1), labels)]
    count = [length for row in lengths for length in row]
    print(f"units of {sum(count) / len(count):.2f} tokens on average", file=sys.stderr, flush=True)
    return lengths


def compare(subject: Subject, model: nn.Module, way: str, condition: Condition) -> list[Row]:
    """Return what spans gain and lose beside the model's own greedy text."""
    ways = {"greedy": ("greedy", {})} | {f"beta {beta:g}": ("lexical-unit", {"beta": beta}) for beta in _BETAS}
    texts: dict[str, list[Generated]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for place in range(len(condition)):
        for name, (decoder, settings) in ways.items():
            begin = time.process_time()
            texts[name] += write(
                decoder,
                settings,
                model,
                condition.keep([place]),
                Limits(max_new_tokens=subject.written),
                subject.tokenizer,
            )
            seconds[name].append(time.process_time() - begin)
    rows: list[Row] = []
    greedy = texts["greedy"]
    for name in list(ways)[1:]:
        setting, mine = f"{way}, {name}", texts[name]
        pace = [slow / fast for slow, fast in zip(seconds["greedy"], seconds[name], strict=True)]
        same = [rouge(text.tokens, other.tokens) for text, other in zip(mine, greedy, strict=True)]
        worse = [
            cost(model, prompt, text.tokens) - cost(model, prompt, other.tokens)
            for prompt, text, other in zip(condition.prompts, mine, greedy, strict=True)
        ]
        rows.append(averaged("tokens a pass", setting, [paces(text) for text in mine], "tokens", ""))
        rows.append(averaged("agreement with greedy", setting, same, "ROUGE-L", ""))
        rows.append(averaged("cost - greedy's", setting, worse, "nats a token", ""))
        rows.append(measured("pace / greedy's", setting, pace, "times", ""))
    return rows


def paces(text: Generated) -> float:
    """Return the tokens of a step, on average."""
    return len(text.tokens) / len(text.trace.tokens)


def rouge(tokens: Sequence[int], other: Sequence[int]) -> float:
    """Return the F1 of the longest common subsequence of two texts of equal length."""
    row = [0] * (len(other) + 1)
    for token in tokens:
        before = row
        row = [0]
        for place, again in enumerate(other):
            row.append(before[place] + 1 if token == again else max(before[place + 1], row[-1]))
    return 2 * row[-1] / (len(tokens) + len(other))


def told_by_pace(subject: Subject, model: nn.Module, way: str, members: Condition, others: Condition) -> Row:
    """Return how well tokens a step tell beginnings that were trained on from others."""
    settings, limits = {"beta": 0.9}, Limits(max_new_tokens=subject.written)
    speeds = [
        [paces(text) for text in write("lexical-unit", settings, model, condition, limits, subject.tokenizer)]
        for condition in (members, others)
    ]
    return told_apart("members told by tokens a step", way, *speeds)


if __name__ == "__main__":
    main(measure, __doc__ or "")
