"""What adapters of a client that trains pads tell, beside those of the plain LoRA client, the control that must leak.

A tiny Llama that knows a half of Lee's news, low-rank adapters on queries and values. DAGER reads the gradient of a
round, of one or two sentences of up to 16 tokens of each of 10 clients, after a round of others, so that A has a
gradient. The certificate of blind directions tells 4 sentences of up to 8 tokens that a client trained on in four steps
from 4 others, in the first round, by the value adapter of the first block or of the second; where it is void, by
chance. Pads stand for units from probability 0.9, and from 0.3, where the model is sure more often; beside them their
number. Figures are means with 95 % intervals by bootstrap over clients.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator, Mapping  # noqa: E402
from typing import Any, cast  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, averaged, main  # noqa: E402
from benchmarks._small_language_model import trained  # noqa: E402
from fedsim.components.loss._pads import units  # noqa: E402
from fedsim.components.loss.pad_blocks import sure_of  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.errors import NotApplicable  # noqa: E402
from fedsim.core.hooks import Attack, MembershipAttack  # noqa: E402
from fedsim.core.types import (  # noqa: E402
    Batch,
    MembershipObservation,
    Tensors,
    Truth,
    Update,
    WatchedUpdate,
    WireEntry,
)
from fedsim.federation.client import local_training  # noqa: E402
from fedsim.metrics.text import score_sentences  # noqa: E402
from fedsim.scenario import parse, world  # noqa: E402
from fedsim.scenario.world import World  # noqa: E402
from fedsim.threat.observe import observe  # noqa: E402
from fedsim.threat.victim import Victim  # noqa: E402

_CLIENTS, _OTHERS, _STEP = 10, 5, 1.0
_PADS: Mapping[str, dict[str, Any] | None] = {
    "LoRA alone (control)": None,
    "pads from 0.9": {"name": "pad-blocks"},
    "pads from 0.3": {"name": "pad-blocks", "sure": 0.3},
}


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version reads adapters of rank 32 too."""
    known = {name: tensor.detach() for name, tensor in trained().model.state_dict().items()}
    rows: list[Row] = []
    for name, pads in _PADS.items():
        for rank in (32, 64) if full else (64,):
            for sentences in (1, 2):
                rows += read_by_dager(name, pads, rank, sentences, known)
        for block in (0, 1):
            rows += told_by_certificate(name, pads, block, known)
    return rows


def federation(pads: dict[str, Any] | None, length: int, lora: dict[str, Any], rules: dict[str, Any]) -> World:
    """Return clients with adapters, and pads or none."""
    components = [{"name": "lora", **lora}, *([pads] if pads else [])]
    raw: dict[str, Any] = {
        "title": "pad blocks",
        "seed": 1,
        "data": {"name": "lee-news", "length": length},
        "model": {"name": "tiny-llama"},
        "components": components,
        "federation": {"clients": 20, "batch_size": 2, **rules},
    }
    return world.build(parse(raw, "benchmark"))


def received(pad_world: World, known: Tensors) -> dict[str, Tensor]:
    """Return the weights of the first round: the trained model below fresh adapters."""
    first = {
        name: known.get(name.replace(".base.", "."), tensor) for name, tensor in pad_world.models.first_weights.items()
    }
    if "embed_tokens.pad" in first:
        first["embed_tokens.pad"] = known["embed_tokens.weight"].mean(0)
    return first


def read_by_dager(name: str, pads: dict[str, Any] | None, rank: int, sentences: int, known: Tensors) -> Iterator[Row]:
    """Yield how many sentences DAGER reads off a gradient of the second round."""
    lora = {"targets": ["*.q_proj", "*.v_proj"], "rank": rank}
    dager_world = federation(pads, 16, lora, {"batch_size": sentences})
    first = received(dager_world, known)
    sent = [local_training(dager_world, first, 1, _CLIENTS + other)[0].tensors for other in range(_OTHERS)]
    second = {
        name: tensor - _STEP * torch.stack([one[name] for one in sent]).mean(0) if name in sent[0] else tensor
        for name, tensor in first.items()
    }
    method = registry.get("attack", "dager")
    attack = cast("Attack[Any]", method.make(method.config()))
    tokenizer = dager_world.data.dataset.tokenizer
    assert tokenizer is not None
    exact: list[float] = []
    right: list[float] = []
    refused: list[float] = []
    counts: list[float] = []
    for client in range(_CLIENTS):
        update, truth = local_training(dager_world, second, 2, client)
        seen = observe(
            Victim(dager_world, WireEntry(2, client, second, update), truth), ("batch-size", "dropout-rates")
        )
        counts.append(pads_of(dager_world, second, truth, pads))
        try:
            scores = score_sentences(attack(seen, seeding.generator(0, "dager")), truth.private[0], tokenizer).sentences
        except NotApplicable:
            scores = []
        refused.append(float(not scores))
        exact.append(sum(one.values["exact"] for one in scores) / max(1, len(scores)))
        right.append(sum(one.values["token_accuracy"] for one in scores) / max(1, len(scores)))
    setting = f"{name}, rank {rank}, {sentences} of a batch"
    yield averaged("followers in units of a batch", setting, counts, "tokens", "")
    yield averaged(
        "DAGER: sentences exact", setting, exact, "share", ">= 0.9" if pads is None and sentences == 1 else ""
    )
    yield averaged("DAGER: tokens right", setting, right, "share", "")
    yield averaged("DAGER: refuses", setting, refused, "share", "")


def pads_of(pad_world: World, weights: Tensors, truth: Truth, pads: dict[str, Any] | None) -> float:
    """Return how many followers the client's units have; none where there are no pads."""
    if pads is None:
        return 0.0
    model, batch = pad_world.models.holding(dict(weights)), truth.private[0]
    with torch.no_grad():
        odds = model.eval()(batch.inputs).softmax(-1)
    model.train()
    rows = [units(row, pads.get("sure", 0.9), 4) for row in sure_of(odds, batch.labels)]
    return float(sum(length - 1 for row in rows for length in row))


def told_by_certificate(name: str, pads: dict[str, Any] | None, block: int, known: Tensors) -> Iterator[Row]:
    """Yield how well the certificate tells what a client trained on from other sentences, in the first round."""
    lora = {"targets": [f"layers.{block}.self_attn.v_proj"], "rank": 64}
    optimizer = {"name": "sgd", "learning_rate": 0.1}
    certificate_world = federation(
        pads, 8, lora, {"algorithm": "fedavg", "batch_size": 1, "local_steps": 4, "optimizer": optimizer}
    )
    first, method = received(certificate_world, known), registry.get("membership", "adapter-certificate")
    attack = cast("MembershipAttack[Any]", method.make(method.config()))
    areas: list[float] = []
    void: list[float] = []
    for client in range(_CLIENTS):
        update, truth = local_training(certificate_world, first, 1, client)
        members = Batch.joined(truth.private)
        others = certificate_world.data.dataset.test.taken(
            torch.arange(client * len(members), (client + 1) * len(members))
        )
        seen = seen_by_server(certificate_world, first, update, Batch.joined((members, others)))
        try:
            scores = attack(seen, seeding.generator(0, "certificate"))
        except NotApplicable:
            scores = torch.zeros(2 * len(members))
        void.append(float(not scores.any()))
        inside, outside = scores[: len(members), None], scores[None, len(members) :]
        areas.append(float((inside > outside).double().mean() + (inside == outside).double().mean() / 2))
    setting = f"{name}, rank 64, block {block + 1}"
    yield averaged("certificate: members told", setting, areas, "area", ">= 0.9" if pads is None else "")
    yield averaged("certificate: void", setting, void, "share", "")


def seen_by_server(pad_world: World, first: Tensors, update: Update, candidates: Batch) -> MembershipObservation:
    """Return what a server has of one client's update."""
    model = pad_world.models.new()
    model.load_state_dict(dict(first))
    watched = WatchedUpdate(1, first, update)
    none: Any = None  # nothing is trained
    return MembershipObservation(
        candidates,
        candidates,
        model.eval(),
        pad_world.stack.loss(1),
        ((1, first),),
        (watched,),
        none,
        task=pad_world.task,
    )


if __name__ == "__main__":
    main(measure, __doc__ or "")
