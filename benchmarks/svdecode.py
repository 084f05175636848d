"""Steering vector decoding on SmolLM2-135M: held-out cost of news behind a short tuning, with and without steering.

The model is tuned on news with LoRA on all four projections of attention (rank 8, alpha 16), at the paper's rate of
5e-5 and at ten times that, where the same steps get further. Its strength is found on sentences that the tuning has
not seen, and the costs are those of others again; n is these sentences, and intervals are by bootstrap. The gain is
taken sentence by sentence against the tuned model. The side channel of outputs: a sentence of the tuning text is told
from an unseen one by its cost under the tuned model and under steering, as the area under the ROC curve.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Mapping  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks._decoding import news, real_model  # noqa: E402
from benchmarks._rows import Row, averaged, main, measured, told_apart  # noqa: E402
from benchmarks._small_language_model import Trainer, choices  # noqa: E402
from fedsim.components.decoder._steering import Mode, joined, places, steered, strength_of  # noqa: E402
from fedsim.components.decoder.svdecode import AT_ONCE, SvdecodeConfig, both  # noqa: E402
from fedsim.core import registry  # noqa: E402
from fedsim.core.losses import IGNORED  # noqa: E402
from fedsim.core.types import Batch  # noqa: E402

_LENGTH, _BATCH, _MEMBERS = 24, 4, 160
_RATES = (5e-5, 5e-4)
_CONFIG = SvdecodeConfig(strength=0, outside="left")  # else a sentence with an unlikely token would cost without end
_MODES: tuple[Mode, ...] = ("mean", "ratio", "newton", "search")


def measure(full: bool) -> list[Row]:
    """Return the rows; the short version tunes for one pass over the sentences, the long one for three too."""
    each = _MEMBERS // _BATCH
    return [row for steps in ((each, 3 * each) if full else (each,)) for rate in _RATES for row in _after(steps, rate)]


def _after(steps: int, rate: float) -> list[Row]:
    data = news(_LENGTH)
    members, held = _part(data.train, 0, _MEMBERS), _part(data.test, 0, 40)
    test = _part(data.test, 40, 120)
    model = _tuned(members, steps, rate)
    strengths = _strengths(model, held)
    wanted = {**strengths, "tuned": 0.0, "twice": 2 * strengths["search"]}
    unseen, seen = _by_sentence(model, test, wanted), _by_sentence(model, members, wanted)
    setting = f"{steps} steps, rate {rate:g}"
    rows = [
        averaged("held-out cost", f"{setting}, base model", unseen["base"], "nats a token", ""),
        averaged("held-out cost", f"{setting}, tuned", unseen["tuned"], "nats a token", ""),
    ]
    for mode, strength in strengths.items():
        gain = [before - after for before, after in zip(unseen["tuned"], unseen[mode], strict=True)]
        rows.append(measured("strength", f"{setting}, {mode}", [strength], "", ""))
        rows.append(averaged("held-out gain of steering", f"{setting}, {mode}", gain, "nats a token", ""))
    for factor, name in ((0, "tuned"), (1, "search"), (2, "twice")):
        cheap = [[-cost for cost in costs] for costs in (seen[name], unseen[name])]
        rows.append(told_apart("members told by cost", f"{setting}, {factor} times the searched strength", *cheap))
    return rows


def _strengths(model: nn.Module, held: Batch) -> dict[Mode, float]:
    """Return what `calibrate` finds in each mode; the models read the text once."""
    parts = [places(*scores, _CONFIG.confidence, refuses=False) for scores in both(model, held)]
    return {mode: strength_of(joined(parts), mode) for mode in _MODES}


def _by_sentence(model: nn.Module, batch: Batch, strengths: Mapping[str, float]) -> dict[str, list[float]]:
    """Return the cost of each sentence, a token, by strength, and that under the base; the models read it once."""
    by_name: dict[str, list[float]] = {name: [] for name in ("base", *strengths)}
    for labels, (tuned, base, true) in zip(batch.labels.split(AT_ONCE), both(model, batch), strict=True):
        counts = (labels != IGNORED).sum(1).tolist()
        for name, of_strength in by_name.items():
            strength = strengths.get(name, 0.0)
            scores = (
                base
                if name == "base"
                else steered(tuned.double(), base.double(), strength, _CONFIG.confidence, refuses=False)
            )
            costs = torch.nn.functional.cross_entropy(scores.double(), true, reduction="none")
            of_strength += [float(part.mean()) for part in costs.split(counts)]
    return by_name


def _part(batch: Batch, first: int, last: int) -> Batch:
    return Batch(batch.inputs[first:last], batch.labels[first:last])


def _tuned(members: Batch, steps: int, rate: float) -> nn.Module:
    method = registry.get("component", "lora")
    targets = [f"*.{letter}_proj" for letter in "qkvo"]
    lora = method.make(method.config.model_validate({"targets": targets, "rank": 8, "alpha": 16.0}))
    model = lora.prepare(real_model(_LENGTH), torch.Generator().manual_seed(0))
    trainer = Trainer(model, rate)
    for chosen in choices(len(members), steps, 0, _BATCH):
        trainer.step(model, members.inputs[chosen], members.labels[chosen])
    return model


if __name__ == "__main__":
    main(measure, __doc__ or "")
