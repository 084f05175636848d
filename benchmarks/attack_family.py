"""The whole family of attacks against dropout: each on a small case that suits it, at three dropout rates.

Three victims a setting, real images, untrained models. `--attack NAME` runs one attack.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from dataclasses import dataclass, field, replace  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks._rows import Row, as_json, as_table  # noqa: E402
from benchmarks._runs import arms_of  # noqa: E402
from fedsim.record import ArmRecord, VictimRecord  # noqa: E402
from fedsim.scenario import parse  # noqa: E402

RATES = [0.0, 0.25, 0.5]
VICTIMS = 3
RECOVERED = 25.0  # dB
KNOWS = ["labels", "batch-size", "dropout-rates", "input-statistics"]

PHOTOGRAPHS = {"name": "foolbox-samples", "collection": "cifar10"}
MNIST = {"name": "mnist5k"}
DIGITS = {"name": "digits"}
SMALL_MLP = {"name": "mlp", "width": 128, "depth": 2}
SMOOTH_MLP = {**SMALL_MLP, "activation": "sigmoid", "bias": True}
RELU_MLP = {"name": "mlp", "activation": "relu", "bias": True}
TWO_PASSES = {
    "algorithm": "fedavg",
    "batch_size": 2,
    "local_epochs": 2,
    "optimizer": {"name": "sgd", "learning_rate": 0.05},
}


@dataclass(frozen=True)
class Case:
    """The case of one attack: what is attacked (in words and as tables of a scenario), and the attack's settings."""

    words: str
    data: dict[str, Any]
    model: dict[str, Any]
    batch_size: int = 1
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    federation: dict[str, Any] = field(default_factory=dict[str, Any])
    threat: dict[str, Any] = field(default_factory=dict[str, Any])
    rest: dict[str, Any] = field(default_factory=dict[str, Any])


MATCHING = {"max_iterations": 800}
TEXT = Case(
    "tiny Llama, news, sentences of 16 tokens",
    {"name": "lee-news", "length": 16},
    {"name": "tiny-llama"},
    threat={"knows": ["batch-size", "dropout-rates"]},
    rest={"partition": {"scheme": "by-user"}},
)
SEVERAL_STEPS = Case(
    "MLP without bias, MNIST, 4 images, 2 passes in batches of 2",
    MNIST,
    SMALL_MLP,
    settings={"max_iterations": 400},
    federation=TWO_PASSES,
    rest={"partition": {"scheme": "resampled", "examples_per_client": 4}},
)


FOUR_ROUNDS = {"clients": 3, "rounds": 4, "evaluate_every": 4}
OVER_ROUNDS = {"knows": [*KNOWS, "defenses", "earlier-rounds"], "rounds": [1, 2, 3, 4]}
HARDLY_MOVING = {"name": "mean", "optimizer": {"name": "sgd", "learning_rate": 1e-4}}


def _over_rounds(words: str, defense: dict[str, Any], batch_size: int = 1) -> Case:
    """Return the case of an attacker who knows the defense and looks at four rounds of the same batch."""
    return Case(
        f"MLP with bias, MNIST, {words}, four rounds",
        MNIST,
        {"name": "mlp", "width": 128, "depth": 2, "bias": True},
        batch_size,
        federation=FOUR_ROUNDS,
        threat=OVER_ROUNDS,
        rest={
            "defenses": [defense],
            "aggregation": HARDLY_MOVING,
            "partition": {"scheme": "resampled", "examples_per_client": batch_size},
        },
    )


def _defended(words: str, defense: dict[str, Any], batch_size: int = 1) -> Case:
    """Return the case of an attacker who knows the client's defense."""
    return Case(
        f"MLP without bias, digits, {words}",
        DIGITS,
        SMALL_MLP,
        batch_size,
        MATCHING,
        threat={"knows": [*KNOWS, "defenses"]},
        rest={"defenses": [defense]},
    )


CASES = {
    "april": Case("attention on patches, digits", DIGITS, {"name": "benchmarks._family_models:attention"}),
    "auto": Case("MLP without bias, digits", DIGITS, SMALL_MLP, batch_size=4),
    "closed-form-linear": Case("MLP without bias, CIFAR-10", PHOTOGRAPHS, {"name": "mlp"}),
    "closed-form-vit": Case("small ViT, CIFAR-10", PHOTOGRAPHS, {"name": "vit-small"}),
    "cocktail-party": Case("MLP with bias, MNIST", MNIST, {"name": "mlp", "bias": True}, batch_size=8),
    "code-readout": Case(
        "MLP without bias with a codebook behind its first layer, digits",
        DIGITS,
        SMALL_MLP,
        settings=MATCHING,
        rest={"components": [{"name": "codebook", "at": ["1"]}]},
    ),
    "code-words": replace(
        TEXT,
        words="tiny Llama with a codebook on its first values, news, sentences of 16 tokens",
        batch_size=4,
        rest={
            **TEXT.rest,
            "components": [{"name": "codebook", "at": ["layers.0.self_attn.v_proj"], "groups": 2}],
        },
    ),
    "compensation": _defended("noise 0.01", {"name": "gradient-noise", "scale": 0.01}),
    "copa": Case("convnet with ReLU, digits", DIGITS, {"name": "convnet", "width": 16}),
    "cpl": Case("MLP with sigmoid, digits", DIGITS, SMOOTH_MLP),
    "cutmix-inversion": Case(
        "convnet, MNIST, CutMix with one box, told the boxes",
        MNIST,
        {"name": "convnet"},
        2,
        {"max_iterations": 200, "restarts": 2},
        threat={"knows": [*KNOWS, "components", "draws"]},
        rest={"components": [{"name": "cutmix", "probability": 1.0}]},
    ),
    "dager": replace(TEXT, batch_size=4),
    "dlg": Case("MLP with sigmoid, digits", DIGITS, SMOOTH_MLP),
    "dropout-inversion": Case("MLP without bias, digits", DIGITS, SMALL_MLP, settings=MATCHING),
    "fedavg-inversion": SEVERAL_STEPS,
    "gauss-newton": Case("LeNet with sigmoid, digits", DIGITS, {"name": "benchmarks._frontier_models:lenet"}),
    "gradinversion": Case("MLP without bias, digits", DIGITS, SMALL_MLP, 2, {"max_iterations": 800, "restarts": 4}),
    "gradvit": Case(
        "ViT of one block, digits",
        DIGITS,
        {"name": "vit-small", "patch": 4, "width": 64, "blocks": 1, "heads": 4, "hidden": 64},
        settings=MATCHING,
    ),
    "idlg": Case("MLP with sigmoid, digits", DIGITS, SMOOTH_MLP),
    "ig-mc": Case("MLP without bias, digits", DIGITS, SMALL_MLP, settings=MATCHING),
    "ig-train": Case("MLP without bias, digits", DIGITS, SMALL_MLP, settings=MATCHING),
    "instahide-regression": _over_rounds("InstaHide", {"name": "instahide"}, 4),
    "inverting-gradients": Case("MLP without bias, digits", DIGITS, SMALL_MLP, settings=MATCHING),
    "key-readout": Case(
        "key-value bottleneck on an MLP, MNIST",
        MNIST,
        {"name": "mlp", "width": 256, "depth": 1},
        rest={"components": [{"name": "key-value-bottleneck", "codebooks": 128}]},
    ),
    "label-shares": Case(
        "MLP without bias, MNIST, CutMix with one box",
        MNIST,
        {"name": "mlp", "width": 256, "depth": 2},
        6,
        threat={"knows": [*KNOWS, "components"]},
        rest={"components": [{"name": "cutmix", "probability": 1.0}]},
    ),
    "lamp": replace(
        TEXT, settings={"max_iterations": 200, "drafts": 40, "every": 40, "candidates": 30, "finishing": 5}
    ),
    "map": _defended("Laplace noise 0.01", {"name": "gradient-noise", "scale": 0.01, "law": "laplace"}),
    "mask-readout": Case("MLP without bias, MNIST", MNIST, {"name": "mlp"}),
    "mixup-inversion": _defended("MixUp", {"name": "mixup"}, 2),
    "noise-inversion": _defended("PRECODE", {"name": "precode"}),
    "patch-dictionary": Case(
        "small ViT of two blocks, patches of 8 x 8 pixels, CIFAR-10",
        PHOTOGRAPHS,
        {"name": "vit-small", "patch": 8, "blocks": 2},
        batch_size=2,
    ),
    "prefix-search": Case(
        "MLP without bias cut by Nested Dropout, digits",
        DIGITS,
        SMALL_MLP,
        settings=MATCHING,
        rest={"components": [{"name": "nested-dropout"}]},
    ),
    "r-gap": Case("convolutions with leaky ReLU, digits", DIGITS, {"name": "benchmarks._family_models:chain"}),
    "robbing-the-fed": Case(
        "LeNet, MNIST", {**MNIST, "size": 32}, {"name": "lenet"}, 16, threat={"server": "malicious"}
    ),
    "round-averaging": replace(
        _over_rounds("noise 0.01", {"name": "gradient-noise", "scale": 0.01}),
        settings={"attack": "closed-form-linear"},
    ),
    "sentence-atoms": replace(TEXT, batch_size=4),
    "sme": SEVERAL_STEPS,
    "span-intersection": Case("MLP without bias, MNIST", MNIST, {"name": "mlp"}, batch_size=8),
    "sparse-dictionary": Case("MLP without bias, MNIST", MNIST, {"name": "mlp"}, batch_size=8),
    "spear": Case("MLP with ReLU and bias, MNIST", MNIST, RELU_MLP, batch_size=4),
    "step-by-step": Case(
        "MLP without bias, MNIST, 3 steps",
        MNIST,
        {"name": "mlp"},
        4,
        rest={"federation": {"algorithm": "fedavg", "local_steps": 3}},
    ),
    "subspace-distance": replace(TEXT, batch_size=4),
    "tag": replace(TEXT, settings={"max_iterations": 400}),
    "transform-inversion": _defended("ATS", {"name": "ats"}),
    "trap-weights": Case("MLP with ReLU and bias, MNIST", MNIST, RELU_MLP, 8, threat={"server": "malicious"}),
    "wiig": Case("MLP without bias, digits", DIGITS, SMALL_MLP, settings=MATCHING, threat={"knows": [*KNOWS, "masks"]}),
    "word-readout": replace(TEXT, batch_size=4),
}


def measure(names: Sequence[str]) -> Iterator[Row]:
    """Return the rows of these attacks, of every dropout rate."""
    for name in names:
        case = CASES[name]
        for rate, arm in zip(RATES, _arms(name, case), strict=True):
            size = "" if "local_epochs" in case.federation else f", B = {case.batch_size}"
            setting = f"{name}, {case.words}{size}, p = {rate:g}"
            victims = arm.attacks[0].victims
            yield from _MEASURES.get(name, _images)(setting, victims)


def _arms(name: str, case: Case) -> tuple[ArmRecord, ...]:
    scenario = parse(
        {
            "title": "attack family",
            "seed": 5,
            "data": case.data,
            "model": case.model,
            "federation": {"clients": 10, "batch_size": case.batch_size, **case.federation},
            "threat": {"knows": KNOWS, "victims": VICTIMS, "keep_updates": False, **case.threat},
            "attacks": [{"name": name, **case.settings}],
            "arms": {"model.dropout": RATES},
            **case.rest,
        },
        "benchmark",
    )
    return arms_of(scenario)


def _images(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """PSNR of the images and the share of them that are recovered."""
    psnr = [score.values["psnr"] for victim in victims for score in victim.scores]
    if not psnr:
        yield _absent("PSNR", setting, "dB", victims[0].failure or "no image was scored")
        return
    yield _row("PSNR", setting + _gave_up(victims), "dB", psnr)
    yield _row(f"above {RECOVERED:g} dB", setting, "share", [float(x > RECOVERED) for x in psnr], mean=True)


def _masks(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """Accuracy of the masks, one value a place where the model drops out."""
    accuracies = [mask.accuracy for victim in victims for mask in victim.masks if mask.accuracy is not None]
    if not accuracies:
        yield _absent("mask accuracy", setting, "share", victims[0].failure or "the model drops nothing out")
        return
    yield _row("mask accuracy", setting, "share", accuracies)


def _sentences(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """Share of a sentence's tokens that are right, and of the sentences that are right altogether."""
    sentences = [sentence for victim in victims for sentence in victim.scores]
    if not sentences:
        yield _absent("token accuracy", setting, "share", victims[0].failure or "no sentence was scored")
        return
    for name in ("token accuracy", "exact"):
        values = [sentence.values[name.replace(" ", "_")] for sentence in sentences]
        yield _row(name, setting, "share", values, mean=True)


def _words(setting: str, victims: Sequence[VictimRecord]) -> Iterator[Row]:
    """Share of a batch's words that were found."""
    found = [victim.found["words found"] for victim in victims if victim.found]
    if not found:
        yield _absent("words found", setting, "share", victims[0].failure or "no text was scored")
        return
    yield _row("words found", setting, "share", found, mean=True)


_TEXT = ("dager", "lamp", "sentence-atoms", "subspace-distance", "tag")
_MEASURES = {"mask-readout": _masks, "word-readout": _words, "code-words": _words, **dict.fromkeys(_TEXT, _sentences)}


def _row(name: str, setting: str, unit: str, values: Sequence[float], *, mean: bool = False) -> Row:
    median = float(np.median(values))
    value = float(np.mean(values)) if mean else median
    return Row(name, setting, value, unit, min(values), median, max(values), len(values), "reported", True)


def _absent(name: str, setting: str, unit: str, reason: str) -> Row:
    return Row(name, f"{setting}: {reason}", 0.0, unit, 0.0, 0.0, 0.0, 0, "reported", True)


def _gave_up(victims: Sequence[VictimRecord]) -> str:
    """Say why no image was found, where every victim's did for the same reason."""
    reasons = {victim.stopped for victim in victims}
    return f": {reasons.pop()}" if len(reasons) == 1 and victims[0].stopped.startswith("gave up") else ""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--attack", choices=sorted(CASES), help="only this attack")
    chosen = parser.parse_args()
    rows = list(measure([chosen.attack] if chosen.attack else sorted(CASES)))
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
