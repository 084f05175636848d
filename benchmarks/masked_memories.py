"""What a masked diffusion model wrote down of its training texts: extraction by gaps and steps, and who was a member.

Models are those of `_masked_memories`, trained briefly or long; the reference is trained briefly, on other texts. Half
of the tokens of each text are hidden and filled in: behind a prefix, between both ends, or every second one. Extracted
means that all of them are right. `chance` is the probability that a draw at temperature 1 in random order writes them
all, exactly, as mean over four orders; planted texts must be extracted, and texts that were left out must not. Members
are told by the steps that a threshold takes to fill in hidden halves, by the masked loss, with and without a reference,
and by votes of masks against the reference; of texts that nobody trained on half are called members: chance. A grammar
that allows the tokens of the attacker's own texts alone, behind a prefix, shows what grammars keep from being written.
Intervals: Wilson of shares, bootstrap over texts of means, differences and AUC.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Mapping, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._masked_memories import LENGTH, TRAINED, Material, material, memory, reference  # noqa: E402
from benchmarks._rows import Row, main, of_interval, with_interval  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Condition  # noqa: E402
from fedsim.core.types import Batch, Generated, Limits, MembershipObservation, Shadow  # noqa: E402
from fedsim.generation import generate  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402
from fedsim.metrics.statistics import wilson  # noqa: E402

_HALF = LENGTH // 2
HIDDEN: Mapping[str, Sequence[int]] = {
    "behind a prefix": range(_HALF, LENGTH),
    "between both ends": range(_HALF // 2, _HALF // 2 + _HALF),
    "every second": range(1, LENGTH, 2),
}
STEPS = (1, 2, 4, 6, 12)
_PLAIN = ("fixed", {"steps": _HALF})
DECODERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "threshold 0.5": ("threshold", {"threshold": 0.5}),
    "credit 0.5": ("credit-decoding", {"threshold": 0.5}),
    "explore 0.5": ("explore-then-exploit", {"threshold": 0.5}),
    "window 6, active 3, refresh 4": ("window-diffusion", {"window": 6, "active": 3, "refresh": 4}),
}
_SCHEDULES = ("threshold 0.5", "credit 0.5", "explore 0.5")
_ORDERS, _MASKED_HALVES = 4, 4


def measure(full: bool) -> list[Row]:
    """Return the rows."""
    texts, rows = material(), list[Row]()
    for trained in TRAINED:
        model = memory(texts, trained)
        rows += _extraction(model, texts, trained)
        rows += _by_steps(model, texts, trained)
        rows += _membership(model, reference(texts), texts, trained, _MASKED_HALVES * (4 if full else 1))
        rows += constrained(model, texts, trained)
    return rows


def written(model: nn.Module, texts: Tensor, hidden: Sequence[int], name: str, settings: Any) -> list[Generated]:
    """Fill in the hidden places of texts (N, T) with an unmasker."""
    method = registry.get("component", name)
    unmasker = method.make(method.config.model_validate(settings)).named(name)
    answer = texts.clone()
    answer[:, list(hidden)] = model.mask_token  # type: ignore[assignment] - these models have one
    sources = seeding.generators(0, "masked memories", [(row,) for row in range(len(texts))])
    condition = Condition(((),) * len(texts), {"answer": answer})
    return generate(unmasker, model, condition, Limits(max_new_tokens=texts.shape[1]), sources, at_once=64)


@torch.no_grad()
def chances(model: nn.Module, texts: Tensor, hidden: Sequence[int], steps: int, generator: torch.Generator) -> Tensor:
    """Return the probability (N,) that a draw at temperature 1 in a random order writes the hidden tokens of texts.

    Each step writes as many places, drawn from their marginals; the order is one for each text.
    """
    places = torch.tensor(list(hidden))
    order = places[torch.rand(len(texts), len(places), generator=generator).argsort(1)]
    masked = torch.zeros_like(texts, dtype=torch.bool)
    masked[:, places] = True
    total = torch.zeros(len(texts), dtype=torch.double)
    for chosen in order.tensor_split(steps, 1):
        rows = torch.arange(len(texts))[:, None]
        odds = model(texts, masked=masked)[rows, chosen].double().log_softmax(-1)
        total += odds.gather(-1, texts[rows, chosen][..., None])[..., 0].sum(1)
        masked[rows, chosen] = False
    return total.exp()


def _extraction(model: nn.Module, texts: Material, trained: str) -> list[Row]:
    rows: list[Row] = []
    plain: dict[str, list[float]] = {}
    for where, hidden in HIDDEN.items():
        for kind in ("members", "others", "planted", "left_out"):
            right = _right(model, getattr(texts, kind), hidden, *_PLAIN)
            rows.append(_share(f"extracted, {kind.replace('_', ' ')}", f"{trained}, {where}, one a step", right))
            if kind == "members":
                plain[where] = right
    for where in list(HIDDEN)[1:]:
        rows.append(_difference(f"{where} less behind a prefix", trained, plain[where], plain["behind a prefix"]))
    return rows


def _by_steps(model: nn.Module, texts: Material, trained: str) -> list[Row]:
    rows: list[Row] = []
    where = "behind a prefix"
    hidden = HIDDEN[where]
    finest = _right(model, texts.members, hidden, *_PLAIN)
    sharpest = _mean_chances(model, texts.members, hidden, _HALF)
    for steps in STEPS:
        about = f"{trained}, {where}, {steps} steps"
        right = _right(model, texts.members, hidden, "fixed", {"steps": steps})
        rows.append(_share("extracted, members", about, right))
        chance = _mean_chances(model, texts.members, hidden, steps)
        rows.append(with_interval("chance, members", about, chance, ""))
        if steps < _HALF:
            rows.append(_difference("extracted, one a step less this", about, finest, right))
            rows.append(_difference("chance, one a step less this", about, sharpest, chance))
    for label, (name, settings) in DECODERS.items():
        done = written(model, texts.members, hidden, name, settings)
        right = _exact(done, texts.members)
        passes = [float(len(text.trace.tokens)) for text in done]
        rows.append(_share("extracted, members", f"{trained}, {where}, {label}", right))
        rows.append(_difference("extracted, one a step less this", f"{trained}, {where}, {label}", finest, right))
        rows.append(with_interval("steps", f"{trained}, {where}, {label}", passes, ""))
    return rows


def _right(model: nn.Module, texts: Tensor, hidden: Sequence[int], name: str, settings: Any) -> list[float]:
    return _exact(written(model, texts, hidden, name, settings), texts)


def _exact(done: Sequence[Generated], texts: Tensor) -> list[float]:
    return [float(list(generated.tokens) == text) for generated, text in zip(done, texts.tolist(), strict=True)]


def _mean_chances(model: nn.Module, texts: Tensor, hidden: Sequence[int], steps: int) -> list[float]:
    generator = seeding.generator(0, "orders")  # the same orders for every number of steps
    of_orders = [chances(model, texts, hidden, steps, generator) for _ in range(_ORDERS)]
    return torch.stack(of_orders).mean(0).tolist()


def _membership(model: nn.Module, other: nn.Module, texts: Material, trained: str, halves: int) -> list[Row]:
    both = torch.cat((texts.members, texts.others))
    signals = _signals(model, other, both, texts, halves)
    strangers = torch.arange(len(texts.others)) % 2 == 0
    is_member = torch.arange(len(both)) < len(texts.members)
    rows: list[Row] = []
    for name, scores in signals.items():
        rows.append(_auc(f"member: {name}", trained, scores[is_member], scores[~is_member]))
        outside = scores[~is_member]
        rows.append(_auc(f"chance: {name}", trained, outside[strangers], outside[~strangers]))
    return rows


def constrained(model: nn.Module, texts: Material, trained: str) -> list[Row]:
    """Return what is extracted behind a prefix by a grammar of the tokens in the attacker's texts, and what can be."""
    allowed = texts.of_attacker.unique()
    grammar = f"Text = | Token Text\nToken = {' | '.join(map(str, allowed.tolist()))}"
    method = registry.get("component", "cfg-constrained")
    unmasker = method.make(method.config.model_validate({"grammar": grammar}))
    rows = list[Row]()
    for kind in ("members", "others", "planted"):
        wanted: Tensor = getattr(texts, kind)
        sources = seeding.generators(0, "masked memories", [(row,) for row in range(len(wanted))])
        prompts = Condition(tuple(map(tuple, wanted[:, :_HALF].tolist())))
        done = generate(unmasker, model, prompts, Limits(max_new_tokens=_HALF), sources, at_once=64)
        about = f"{trained}, behind a prefix, grammar"
        rows.append(_share(f"extracted, {kind}", about, _exact(done, wanted[:, _HALF:])))
        rows.append(_share(f"allowed, {kind}", about, torch.isin(wanted[:, _HALF:], allowed).all(1).double().tolist()))
    return rows


def _signals(model: nn.Module, other: nn.Module, both: Tensor, texts: Material, halves: int) -> dict[str, Tensor]:
    signals = {
        f"steps behind a prefix, {label}": -_steps(model, both, HIDDEN["behind a prefix"], label)
        for label in _SCHEDULES
    }
    generator = seeding.generator(0, "halves")
    halves_hidden = [sorted(torch.randperm(LENGTH, generator=generator)[:_HALF].tolist()) for _ in range(halves)]
    for label in _SCHEDULES:
        every = torch.stack([_steps(model, both, hidden, label) for hidden in halves_hidden])
        signals[f"mean steps of {halves} hidden halves, {label}"] = -every.mean(0)
    for name in ("masked-loss", "calibrated-masked-loss", "masked-votes"):
        signals[name] = _scored(name, model, other, both, texts)
    return signals


def _steps(model: nn.Module, texts: Tensor, hidden: Sequence[int], label: str) -> Tensor:
    done = written(model, texts, hidden, *DECODERS[label])
    return torch.tensor([float(len(text.trace.tokens)) for text in done])


def _scored(name: str, model: nn.Module, other: nn.Module, both: Tensor, texts: Material) -> Tensor:
    if name == "calibrated-masked-loss":
        scores, theirs = (_scored("masked-loss", each, other, both, texts) for each in (model, other))
        return scores - theirs
    method = registry.get("membership", name)
    attack = method.make(method.config())
    task = registry.get("task", "masked-diffusion")
    about, plan = task.make(task.config()), attack.plan()
    shadow = Shadow(dict(other.state_dict()), torch.zeros(len(both)).bool(), torch.ones(len(texts.of_attacker)).bool())
    seen = MembershipObservation(
        candidates=Batch(both, both),
        reference=Batch(texts.of_attacker, texts.of_attacker),
        model=model,
        loss=about.loss,
        weights=((1, dict(model.state_dict())),),
        updates=(),
        train_shadow=lambda _examples, _generator: {},
        shadows={} if plan is None else {plan: (shadow,)},
        task=about,
    )
    return attack(seen, seeding.generator(0, "masked memories"))


def _auc(name: str, setting: str, inside: Tensor, outside: Tensor) -> Row:
    return of_interval(name, setting, auc_interval(inside.numpy(), outside.numpy(), np.random.default_rng(0)), "")


def _share(name: str, setting: str, right: Sequence[float]) -> Row:
    return of_interval(name, setting, wilson(sum(right), len(right)), "")


def _difference(name: str, setting: str, one: Sequence[float], other: Sequence[float]) -> Row:
    return with_interval(name, setting, [a - b for a, b in zip(one, other, strict=True)], "")


if __name__ == "__main__":
    main(measure, __doc__ or "")
