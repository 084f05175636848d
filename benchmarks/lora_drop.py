"""LoRA-Drop: what its adapters win back, what they save, and what their gradient tells about a sentence.

A small Llama that knows news gets adapters beside every second block, with an anchor every fourth token; they are
trained for 200 steps. Losses are of the 32 tokens behind a prompt of 32, report by report; then prompts are gone on
with. Ratios are of processor time; all on one thread. Without ``--full`` six prompts are gone on with.

For the gradient, a tiny Llama gets one adapter: LoRA-Drop's beside its last block, or LoRA on the values of that block,
which read the same states. Each of 20 victims sends the gradient of one sentence of 16 tokens. A place is told if,
behind the true beginning, the true token's input is nearest of all to the span of A's gradient. An anchor of LoRA-Drop
is in no span; it is told if of all tokens the true one brings the input of the token behind it nearest.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import copy  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks import _news_llama as news  # noqa: E402
from benchmarks._rows import Row, averaged, main, measured, with_interval  # noqa: E402
from benchmarks._small_language_model import Sentences, Trainer, choices, trained  # noqa: E402
from benchmarks.adapters import RATE, VICTIMS, outside, span, vocabulary_of  # noqa: E402
from benchmarks.decoders import likelihood, timed, written_in_turn  # noqa: E402
from benchmarks.early_exits import plain  # noqa: E402
from benchmarks.skipdecode import losses  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.decoder.lora_drop import LoraDrop, LoraDropConfig  # noqa: E402
from fedsim.core import checkpoints, registry  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.core.losses import IGNORED, cross_entropy  # noqa: E402
from fedsim.core.past import Past  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

PROMPT = WRITTEN = news.LENGTH // 2
PROMPTS, SHORT = 30, 6
STEPS, STEP_SIZE = 200, 1e-3
SETS = {"every second block": None, "three of four blocks": (1, 2, 3, 5, 6, 7, 9, 10, 11)}
RANKS, CYCLE = (8, 32), 4
ROUND = 11


def prepared(model: nn.Module, component: str, **settings: Any) -> nn.Module:
    """Return a model with a component's adapters."""
    method = registry.get("component", component)
    return method.make(method.config.model_validate(settings)).prepare(model, torch.Generator().manual_seed(0))


def adapted(label: str, is_trained: bool) -> Writer:
    """Return the plain checkpoint with adapters of the news, fresh or trained; these are cached."""
    writer = load_writer(str(plain()))
    prepared(writer.model, "lora-drop-adapters", blocks=SETS[label], cycle=CYCLE, prompt=PROMPT)
    if not is_trained:
        return writer

    def make(folder: Path) -> None:
        news.train(writer.model, news.next_tokens, STEPS, STEP_SIZE, seed=2)
        learned = {name: p.detach() for name, p in writer.model.named_parameters() if p.requires_grad}
        torch.save(learned, folder / "adapters.pt")

    folder = checkpoints.make_once(f"news-llama-lora-drop-{len(SETS[label] or ())}-1", make)
    writer.model.load_state_dict(torch.load(folder / "adapters.pt", weights_only=True), strict=False)
    writer.model.eval()
    return writer


def worth(count: int) -> Iterator[Row]:
    """Yield losses, and what the decoder gains."""
    full = load_writer(str(plain()))
    texts = news.windows(full)
    best = losses(full.model, texts)
    yield with_interval("loss", "all blocks", best, "nats a token")
    for label in SETS:
        fresh, learned = (losses(adapted(label, is_trained).model, texts) for is_trained in (False, True))
        yield with_interval("loss", f"{label} dropped, B = 0", fresh, "nats a token")
        yield with_interval("loss", f"{label} dropped, trained", learned, "nats a token")
        won = (statistics.fmean(fresh) - statistics.fmean(learned)) / (statistics.fmean(fresh) - statistics.fmean(best))
        yield measured("share of the loss that adapters win back", label, [won], "", "")
        yield from speeds(adapted(label, True), full, texts[:count, :PROMPT].tolist(), label)


def speeds(writer: Writer, full: Writer, prompts: list[list[int]], label: str) -> Iterator[Row]:
    """Yield what the decoder gains over greedy decoding of the whole model, and how likely its texts are."""
    full.model.eval()
    ways: list[tuple[Writer, Decoder[Any, Any]]] = [
        (full, Greedy(GreedyConfig())),
        (writer, LoraDrop(LoraDropConfig())),
    ]
    timed(*ways[1], prompts[0], WRITTEN)
    greedy, timed_texts = written_in_turn(ways, prompts, WRITTEN)
    gain = [base.seconds / each.seconds for base, each in zip(greedy, timed_texts, strict=True)]
    layers = [statistics.fmean(each.text.trace.series()["layers"][1:]) for each in timed_texts]
    worse = [
        likelihood(full, prompt, each.text) - likelihood(full, prompt, base.text)
        for prompt, each, base in zip(prompts, timed_texts, greedy, strict=True)
    ]
    yield measured("lora-drop / greedy: tokens a second", label, gain, "times", "")
    yield measured("lora-drop: layers on a written token, of 12", label, layers, "layers", "")
    yield with_interval("lora-drop - greedy: nats a token under the whole model", label, worse, "nats")


def leaks() -> Iterator[Row]:
    """Yield what the gradient of one adapter tells, for LoRA-Drop and for LoRA on what reads the same."""
    source = trained()
    for rank in RANKS:
        yield from _told_rows(source, f"LoRA, rank {rank}", "lora", targets=("layers.1.self_attn.v_proj",), rank=rank)
        yield from _told_rows(source, f"LoRA-Drop, rank {rank}", "lora-drop-adapters", rank=rank, cycle=CYCLE)


def _told_rows(source: Sentences, setting: str, component: str, **settings: Any) -> Iterator[Row]:
    """Yield shares of the places that leaned on an anchor, and of the anchors, that are told."""
    model = prepared(copy.deepcopy(source.model), component, **settings).train()
    whole = [number for number in range(len(source.fresh)) if (source.fresh.labels[number] != IGNORED).all()]
    trainer, others = Trainer(model, RATE), whole[:-VICTIMS]
    for chosen in choices(len(others), ROUND - 1, 1):
        rows = [others[number] for number in chosen]
        trainer.step(model, source.fresh.inputs[rows], source.fresh.labels[rows])
    (name,) = (name for name in trainer.parameters if name.endswith("lora_a.weight"))
    leaning: list[float] = []
    anchors: list[float] = []
    ranks: list[float] = []
    for victim in whole[-VICTIMS:]:
        tokens, labels = source.fresh.inputs[victim], source.fresh.labels[victim]
        loss = cross_entropy(model(tokens[None]), labels[None])
        (gradient,) = torch.autograd.grad(loss, [trainer.parameters[name]])
        basis = span(gradient)
        flags = [_is_told(model, name, tokens, place, place, basis) for place in range(len(tokens))]
        leaning.append(statistics.fmean(flags[number] for number in range(len(flags)) if number % CYCLE))
        behind = [_is_told(model, name, tokens, number, number + 1, basis) for number in range(0, len(tokens), CYCLE)]
        anchors.append(statistics.fmean(behind))
        ranks.append(len(basis))
        if component == "lora":
            anchors[-1] = statistics.fmean(flags[number] for number in range(0, len(flags), CYCLE))
    yield averaged("rank of dA", setting, ranks, "", "")
    yield averaged("told of the places between anchors", setting, leaning, "share", "")
    yield averaged("told of the anchors' places", setting, anchors, "share", "")


@torch.no_grad()
def _is_told(model: nn.Module, name: str, tokens: Tensor, place: int, seen_at: int, basis: Tensor) -> float:
    """Say whether of all tokens at a place the true one brings the input at a place nearest to the span."""
    past, every, known = Past(), vocabulary_of(model), tuple(tokens.tolist())
    if place:
        past.states(model, [known[:place]], layers=(0,))
        past = past.keep([0] * len(every))
    texts = [(*known[:place], token, *known[place + 1 : seen_at + 1]) for token in every.tolist()]
    inputs = past.states(model, texts, layers=(0,))[0][:, -1]
    if "self_attn" in name:
        inputs = model.get_submodule("layers.1.input_layernorm")(inputs)
    return float(outside(inputs, basis).argmin() == tokens[place])


def measure(full: bool) -> list[Row]:
    """Return all rows."""
    return [*worth(PROMPTS if full else SHORT), *leaks()]


if __name__ == "__main__":
    main(measure, __doc__ or "")
