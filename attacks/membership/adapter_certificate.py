"""adapter-certificate: infer members from the directions that a trained low-rank adapter leaves unchanged.

Idea: a fresh adapter B A has B = 0. Plain steps keep B's rows and A x of all inputs x in one space S. Once every input
    has contributed, B's rows span S, so A x of a member lies in S; for other inputs this is unlikely. No model is
    queried.
Equation: score(x) = -|(I - P) A x| / |A x|, with P the projector on the row space of B after the client's steps.
Assumes: a server that sees one client's update of fresh adapters (ours, peft's) and knows the initial weights; plain
    steps of any size, order, number, momentum, weight decay, or ALLoRA's factors; constant inputs of the adapters.
Recovers: the members, without error up to rounding; every position of a text must be certified.
Fails: as many independent inputs as the rank, Adam, noise (the certificate is void, and it says so); dropout or another
    adapter before this adapter. A text of words that occur in the client's other texts passes if the adapter's inputs
    depend on single words.
Source: this project, no paper.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import ClassVar, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from attacks.core.tolerances import TINY
from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core import seeding
from fedsim.core.errors import NotApplicable
from fedsim.core.hooks import IMAGES_AND_TEXT
from fedsim.core.nets.layer_calls import read_by
from fedsim.core.nets.losses import ignored_labels
from fedsim.core.registry import attack
from fedsim.core.types import Config, Modality, Tensors
from fedsim.questions.membership.hooks import MembershipAttack
from fedsim.questions.membership.types import MembershipObservation, Target, WatchedUpdate

_PROBES = 4
_AT_ONCE = 64


class AdapterCertificateConfig(Config):
    """Settings of the certificate."""

    tolerance: float = Field(
        default=1e-6, gt=0, lt=1, description="singular values of B below this share of the largest count as zero"
    )


class TrainedAdapter(NamedTuple):
    """An adapter: its name, A (r, in) before training and B (out, r) after training, at any scale."""

    name: str
    a: Tensor
    b: Tensor


@final
@attack("adapter-certificate", summary="members lie in the space that a trained low-rank adapter spans", tier="core")
class AdapterCertificate(MembershipAttack[AdapterCertificateConfig]):
    """Scores by the share of A x outside the row space of B."""

    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT
    target: ClassVar[Target] = "update"

    def not_applicable(self, observation: MembershipObservation) -> str | None:
        """Refuse models without adapters, and updates that did not start from fresh ones."""
        if not any(_factors(observation.model)):
            return "the model has no low-rank adapter"
        if not any(_fresh(observation.model, watched) for watched in observation.updates):
            return "no watched update starts from fresh adapters (B = 0): add round 1 to threat.rounds"
        return None

    @torch.no_grad()
    def score(self, observation: MembershipObservation, generator: torch.Generator) -> Tensor:
        """Return minus the share outside at a candidate's worst position, from the round with the smallest share.

        Raises:
            NotApplicable: all certificates are void, or the adapters' inputs change during training.
        """
        shares: list[Tensor] = []
        reasons: set[str] = set()
        for watched in observation.updates:
            adapters = _fresh(observation.model, watched)
            unchanged = _select_unchanged_adapters(observation, watched, adapters, generator)
            certified = [
                (adapter, space)
                for adapter in unchanged
                if (space := blind(adapter.a, adapter.b, self.config.tolerance)) is not None
            ]
            if certified:
                shares.append(_outside(observation, watched.received_weights, certified))
            elif adapters:
                reasons.add(_VOID if unchanged else _CHANGED)
        if not shares:
            raise NotApplicable("; ".join(sorted(reasons)))
        return -torch.stack(shares).amin(0)


_VOID = "the certificates are void: B's rows span everything, by too many inputs for the rank, Adam or noise"
_CHANGED = "the adapters' inputs change during training, by dropout or by earlier adapters"


def blind(a: Tensor, b: Tensor, tolerance: float) -> Tensor | None:
    """Return C = (I - P) A in an orthonormal basis, shape (r - q, in), double; None if it is void, q = r.

    Args:
        a: A before or after training, shape (r, in).
        b: B after training from zero, or its gradient at zero, shape (out, r).
        tolerance: singular values of B below this share of the largest count as zero.
    """
    _, values, rows = torch.linalg.svd(b.double(), full_matrices=True)
    rank = int((values > tolerance * values[0]).sum())
    return None if rank >= len(a) else rows[rank:] @ a.double()


def _fresh(model: nn.Module, watched: WatchedUpdate) -> list[TrainedAdapter]:
    """Return the adapters of an update that started at B = 0 and whose trained B is shared."""
    adapters: list[TrainedAdapter] = []
    received, sent = watched.received_weights, watched.update.tensors
    for name, a, b in _factors(model):
        if b in sent and not received[b].any() and bool(sent[b].any()):
            adapters.append(TrainedAdapter(name, received[a], sent[b]))
    return adapters


def _factors(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Yield the names of every adapted layer and of its weights A and B; peft layers may contain several pairs."""
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            yield name, f"{name}.lora_a.weight", f"{name}.lora_b.weight"
        factors = getattr(module, "lora_A", None)
        if not isinstance(factors, nn.ModuleDict):
            continue
        for key, factor in factors.items():
            if isinstance(factor, nn.Linear):
                yield name, f"{name}.lora_A.{key}.weight", f"{name}.lora_B.{key}.weight"


def _select_unchanged_adapters(
    observation: MembershipObservation,
    watched: WatchedUpdate,
    adapters: Sequence[TrainedAdapter],
    generator: torch.Generator,
) -> list[TrainedAdapter]:
    """Return the adapters with equal inputs before the first step (evaluation) and after the last step (training)."""
    sent = watched.update.tensors if watched.update.kind == "delta" else {}
    trained = {
        name: tensor - sent[name] if name in sent else tensor for name, tensor in watched.received_weights.items()
    }
    names, probes = [adapter.name for adapter in adapters], observation.candidates.inputs[:_PROBES]
    model = copy.deepcopy(observation.model)
    with seeding.isolate_randomness(int(torch.randint(1 << 62, (), generator=generator))):
        before = _read(model.eval(), watched.received_weights, names, probes)
        later_states = _read(model.train(), trained, names, probes)
    return [
        adapter
        for adapter in adapters
        if torch.allclose(before[adapter.name], later_states[adapter.name], rtol=1e-5, atol=1e-6)
        and not _drops_out(observation.model.get_submodule(adapter.name))
    ]


def _drops_out(adapter: nn.Module) -> bool:
    """Return whether an adapter applies dropout to the inputs of its first factor."""
    return any(isinstance(module, nn.Dropout) and module.p for module in adapter.modules())


def _outside(
    observation: MembershipObservation, received: Tensors, certified: Sequence[tuple[TrainedAdapter, Tensor]]
) -> Tensor:
    """Return the largest share outside over the positions of each candidate, shape (N,).

    Of the adapters with the same input, one certified adapter is enough for a position: the query of a first token,
    which
    attends only to itself, has no gradient, but its value has.
    """
    model, names = copy.deepcopy(observation.model).eval(), [adapter.name for adapter, _ in certified]
    residuals: list[Tensor] = []
    candidates = observation.candidates
    for inputs, labels in zip(candidates.inputs.split(_AT_ONCE), candidates.labels.split(_AT_ONCE), strict=True):
        read = _read(model, received, names, inputs)
        groups = list(_alike(read, certified))
        shares = torch.stack([torch.stack([_share(x, a, c) for x, a, c in group]).amin(0) for group in groups]).amax(0)
        residuals.append(_worst(shares, labels))
    return torch.cat(residuals)


def _alike(
    read: dict[str, Tensor], certified: Sequence[tuple[TrainedAdapter, Tensor]]
) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Yield (inputs, A, C) of the adapters with the same input, group by group."""
    left = [(read[adapter.name].double(), adapter.a.double(), space) for adapter, space in certified]
    while left:
        first = left[0][0]
        same = [row[0].shape == first.shape and torch.equal(row[0], first) for row in left]
        yield [row for row, is_same in zip(left, same, strict=True) if is_same]
        left = [row for row, is_same in zip(left, same, strict=True) if not is_same]


def _share(inputs: Tensor, a: Tensor, space: Tensor) -> Tensor:
    """Return |C x| / |A x| of inputs (B, ..., in), shape (B, places)."""
    share = (inputs @ space.T).norm(dim=-1) / (inputs @ a.T).norm(dim=-1).clamp_min(TINY)
    return share.flatten(1) if share.dim() > 1 else share[:, None]


def _worst(shares: Tensor, labels: Tensor) -> Tensor:
    """Return the largest share (B, places) of each example; padding of a text is ignored."""
    if labels.shape == shares.shape:
        shares = shares.masked_fill(ignored_labels(labels), 0.0)
    return shares.amax(1)


def _read(model: nn.Module, weights: Tensors, names: Sequence[str], inputs: Tensor) -> dict[str, Tensor]:
    model.load_state_dict(dict(weights))
    return dict(zip(names, read_by(model, names, inputs, nullcontext()), strict=True))
