"""LoRA-Drop and SkipDecode on SmolLM2-135M after a short training on news: what they lose, and how fast they are.

LoRA-Drop gets adapters of rank 8 beside every second block, with an anchor every fourth token, and stands beside the
model as it came. SkipDecode runs half of the layers on average, which low-rank adapters of all linear layers learn, and
stands beside the model whose adapters learned as long with all layers. Each training takes 40 steps of two windows of
64 tokens of reports; what was trained is kept in the cache. Losses are of the 32 tokens behind a prompt of 32, on other
reports. Then prompts are gone on with; ratios are of processor time, all on one thread. ``--way`` picks one of the two;
without ``--full`` 8 of 30 reports.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._news_llama import next_tokens, reports  # noqa: E402
from benchmarks._rows import Row, as_json, as_table, measured, with_interval  # noqa: E402
from benchmarks.decoders import likelihood, timed, written_in_turn  # noqa: E402
from benchmarks.skipdecode import losses  # noqa: E402
from fedsim.components.decoder.greedy import Greedy, GreedyConfig  # noqa: E402
from fedsim.components.decoder.lora_drop import LoraDrop, LoraDropConfig  # noqa: E402
from fedsim.components.decoder.skipdecode import SkipDecode, SkipDecodeConfig  # noqa: E402
from fedsim.core import checkpoints, registry  # noqa: E402
from fedsim.core.blocks import blocks_of  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.generation.writer import Writer, load_writer  # noqa: E402

LENGTH, BATCH, STEPS, RATE = 64, 2, 40, 3e-3
PROMPT = WRITTEN = LENGTH // 2
REPORTS, SHORT = 30, 8
_FILE = "trained.pt"
_LINEAR = [f"*.{projection}_proj" for projection in ("q", "k", "v", "o", "gate", "up", "down")]
_LORA = ("lora", {"targets": _LINEAR, "rank": 16, "alpha": 32.0})
_CLOCK = ("skipdecode-training", {"speed_up": 2.0, "expected": WRITTEN, "prompt": PROMPT})
_DROP = ("lora-drop-adapters", {"rank": 8, "cycle": 4, "prompt": PROMPT})

WAYS: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "all layers": (_LORA,),
    "LoRA-Drop": (_DROP,),
    "SkipDecode": (_LORA, _CLOCK),
}
"""Components of each way, in the order in which they are put into the model."""

DECODERS: dict[str, Decoder[Any, Any]] = {
    "LoRA-Drop": LoraDrop(LoraDropConfig()),
    "SkipDecode": SkipDecode(SkipDecodeConfig(speed_up=2.0, expected=WRITTEN)),
}


def prepared(way: str) -> Writer:
    """Return SmolLM2 with the components of a way, not trained."""
    writer = load_writer(checkpoints.SMOLLM2)
    model = writer.model
    for name, settings in WAYS[way]:
        method = registry.get("component", name)
        made = method.make(method.config.model_validate(settings))
        model = made.prepare(model, torch.Generator().manual_seed(0))
    return Writer(model, writer.tokenizer, writer.context)


def trained(way: str) -> Writer:
    """Return it after its steps, from the cache if it was trained before."""
    writer = prepared(way)
    learned = {name: parameter for name, parameter in writer.model.named_parameters() if parameter.requires_grad}

    def make(folder: Path) -> None:
        _train(writer)
        torch.save({name: parameter.detach() for name, parameter in learned.items()}, folder / _FILE)

    name = f"smollm2-clock-{way.replace(' ', '-')}-{STEPS}x{BATCH}"
    folder = checkpoints.make_once(name, make, takes="some minutes")
    writer.model.load_state_dict(torch.load(folder / _FILE, weights_only=True), strict=False)
    writer.model.eval()
    return writer


def _train(writer: Writer) -> None:
    text = torch.tensor([token for report in reports()[0] for token in writer.tokenizer.encode(report + "\n")])
    parameters = [parameter for parameter in writer.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    source = torch.Generator().manual_seed(0)
    writer.model.train()
    for _ in range(STEPS):
        starts = torch.randint(len(text) - LENGTH, (BATCH,), generator=source)
        optimizer.zero_grad()
        next_tokens(writer.model, torch.stack([text[start : start + LENGTH] for start in starts])).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def windows(writer: Writer, count: int) -> Tensor:
    """Return the first tokens of other reports that are long enough, shape (count, LENGTH)."""
    texts = [writer.tokenizer.encode(report)[:LENGTH] for report in reports()[1]]
    return torch.tensor([text for text in texts if len(text) == LENGTH][:count])


def beside(way: str) -> Writer:
    """Return the model with all layers that a way is compared with."""
    return load_writer(checkpoints.SMOLLM2) if way == "LoRA-Drop" else trained("all layers")


def compared(way: str, count: int) -> Iterator[Row]:
    """Yield the losses of a way, and what they are above those of all layers, report by report."""
    texts = windows(load_writer(checkpoints.SMOLLM2), count)
    base = losses(beside(way).model, texts)
    fresh, learned = losses(prepared(way).model, texts), losses(trained(way).model, texts)
    yield with_interval("loss of all layers", way, base, "nats a token")
    for state, losses_of_state in (("untrained", fresh), ("trained", learned)):
        above = [loss - least for loss, least in zip(losses_of_state, base, strict=True)]
        yield with_interval("loss", f"{way}, {state}", losses_of_state, "nats a token")
        yield with_interval("loss above that of all layers", f"{way}, {state}", above, "nats a token")
    lost, won = sum(fresh) - sum(base), sum(fresh) - sum(learned)
    yield measured("share of the loss that training wins back", way, [won / lost], "", "")


def gained(way: str, count: int) -> Iterator[Row]:
    """Yield what the decoder of a way gains over greedy decoding with all layers, and what its texts cost."""
    plain, writer, decoder = beside(way), trained(way), DECODERS[way]
    prompts = windows(plain, count)[:, :PROMPT].tolist()
    timed(writer, decoder, prompts[0], WRITTEN)
    greedy, timed_texts = written_in_turn([(plain, Greedy(GreedyConfig())), (writer, decoder)], prompts, WRITTEN)
    speed = [base.seconds / each.seconds for base, each in zip(greedy, timed_texts, strict=True)]
    passes = [len(each.text.tokens) / writer.passes(each.text.trace) for each in timed_texts]
    layers = [
        statistics.fmean(each.text.trace.series()["layers"][1:]) for each in timed_texts
    ]  # the first step reads the prompt
    worse = [
        likelihood(plain, prompt, each.text) - likelihood(plain, prompt, base.text)
        for prompt, each, base in zip(prompts, timed_texts, greedy, strict=True)
    ]
    yield measured(f"{way} / greedy: tokens a second", "trained", speed, "times", "")
    yield measured(f"{way}: tokens a full forward pass", "trained", passes, "tokens", "")
    yield measured(
        f"{way}: layers on a written token, of {len(blocks_of(plain.model, way))}", "trained", layers, "", ""
    )
    for name, texts in (("greedy", greedy), (way, timed_texts)):
        clock = [1000 * each.seconds / len(each.text.tokens) for each in texts]
        yield measured(f"{name}: milliseconds a token, the prompt's reading among them", "trained", clock, "ms", "")
    yield with_interval(f"{way} - greedy: nats a token under all layers", "trained", worse, "nats")


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--full", action="store_true", help="all reports")
    parser.add_argument("--way", choices=list(DECODERS), help="absent: both")
    chosen = parser.parse_args()
    count = REPORTS if chosen.full else SHORT
    ways = [chosen.way] if chosen.way else list(DECODERS)
    rows = [row for way in ways for part in (compared, gained) for row in part(way, count)]
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
