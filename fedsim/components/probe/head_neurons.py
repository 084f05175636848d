"""head-neurons: interprets neurons of a language model by its output head, and predicts classes from a few neurons.

Idea: a neuron reads one direction of the residual stream; if the head maps it to a token, the neuron represents that
    token.
Equation: P_i = softmax(W_U (gain * s w_i / rms(w_i))), s = +-1 with the higher maximum. As a probe: the k neurons of
    each class with the largest |AUC - 1/2|, and a Gaussian of each class over them, with a variance per neuron.
Assumes: the weights; for classes, activations (the output of `up_proj`) with labels.
Leaks: a row of a client's update is a sum of the neuron's inputs, so the head names words of the client's text.
Fails: with neurons that represent several concepts; correlated neurons make the probe overconfident.
Source: inspired by Davies 2025, arXiv 2501.02688; the norm, both signs, and the probe are chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, final

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core.errors import FedsimError, NotApplicable, did_you_mean
from fedsim.core.hooks import Probe
from fedsim.core.nets.kv_cache import stack_of
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.registry import component
from fedsim.core.types import Config, Tensors

Weights = Literal["up_proj", "gate_proj", "down_proj"]


class HeadNeuronsConfig(Config):
    """Settings of head-neurons."""

    neurons: int = Field(default=8, ge=1, description="k, neurons that are kept for each class")


@final
@component(
    "head-neurons",
    summary="probe: neurons named by the head, classes inferred from a few neurons",
    tier="research",
    paper="2501.02688",
    fidelity="inspired",
    deviates="only summaries were read; norm, signs and probe are chosen here",
    paper_steps=(
        ("neurons named by the head", "name_neurons"),
        ("clamp of a neuron while the model writes", "clamp_neurons"),
        ("share of names that tuning leaves", "same_top"),
        ("names of the neurons that an update moved", "fedsim.questions.neurons.NeuronQuestion"),
    ),
)
class HeadNeurons(Probe[HeadNeuronsConfig]):
    """Predicts classes from the activations of the most discriminative neurons of each class."""

    def fit(self, hidden: Tensor, labels: Tensor, generator: torch.Generator) -> Tensors:
        """Return `neurons` (selected indices), `means` (K, kept), `variances` (kept,) and `shares` of classes (K,).

        Raises:
            NotApplicable: fewer than two classes with an example each, or non-finite states.
        """
        members = _members(hidden, labels)
        hidden = hidden.double()
        kept = torch.cat([self._best(hidden, member) for member in members]).unique()
        of_kept = hidden[:, kept]
        means = torch.stack([of_kept[member].mean(0) for member in members])
        variances = (of_kept - means[labels]).square().mean(0)
        floor = 1e-6 * of_kept.var(0, correction=0).clamp_min(torch.finfo(torch.double).tiny)  # constant in each class
        shares = torch.stack([member.double().mean() for member in members])
        return {"neurons": kept, "means": means, "variances": torch.maximum(variances, floor), "shares": shares}

    def _best(self, hidden: Tensor, is_member: Tensor) -> Tensor:
        distances = (auc(hidden, is_member) - 0.5).abs()
        return distances.topk(min(self.config.neurons, len(distances))).indices

    def predict(self, learned: Tensors, hidden: Tensor) -> Tensor:
        """Return the probability of each class, shape (N, K)."""
        distances = (hidden.double()[:, None, learned["neurons"]] - learned["means"]).square() / learned["variances"]
        return (learned["shares"].log() - distances.sum(-1) / 2).softmax(-1).to(hidden.dtype)


def auc(activations: Tensor, is_member: Tensor) -> Tensor:
    """Return the AUC of each neuron for members against non-members, shape (neurons,).

    Args:
        activations: shape (N, neurons).
        is_member: booleans (N,), neither all nor none.
    """
    members, non_members = activations[is_member].T.contiguous(), activations[~is_member].T.contiguous().sort(1).values
    lower = torch.searchsorted(non_members, members)
    up_to = torch.searchsorted(non_members, members, right=True)
    return (lower + up_to).double().mean(1) / (2 * non_members.shape[1])


class NamedNeurons(NamedTuple):
    """Most likely tokens of neurons under the output head.

    Attributes:
        signs: 1 or -1 (N,), the sign of the named direction.
        tokens: the most likely tokens (N, kept), in descending order.
        probabilities: probabilities of these tokens (N, kept).
        entropy: entropy over all tokens in nats (N,).
        shares: total probability of the tokens of each concept, (N,) by concept.
    """

    signs: Tensor
    tokens: Tensor
    probabilities: Tensor
    entropy: Tensor
    shares: dict[str, Tensor]


def neuron_rows(model: nn.Module, weights: Weights = "up_proj") -> dict[str, Tensor]:
    """Return the neurons' vectors by module, shape (neurons, width): input weights, or output weights for `down_proj`.

    Raises:
        NotApplicable: the model has no such module.
    """
    rows = {name: _weight(module) for name, module in _modules(model, weights)}
    if not rows:
        raise NotApplicable(f"the model has no layer '{weights}'. It reads models of Llama's kind.")
    return {name: weight.T if weights == "down_proj" else weight for name, weight in rows.items()}


def _weight(module: nn.Module) -> Tensor:
    """Return a linear layer's weight, including a low-rank adapter."""
    return (module.merge_adapter() if isinstance(module, LowRankLinear) else module).get_parameter("weight").detach()


def name_neurons(
    model: nn.Module,
    rows: Tensor,
    *,
    kept: int = 10,
    concepts: Mapping[str, Sequence[int]] | None = None,
    both_signs: bool = True,
    batch_size: int = 256,
) -> NamedNeurons:
    """Return the most likely tokens under the model's output head for vectors of its residual stream.

    Args:
        model: language model with individually callable layers; it is not changed.
        rows: shape (N, width); their norm is irrelevant.
        kept: number of tokens per vector.
        concepts: tokens by concept, whose total probability is returned.
        both_signs: whether the opposite vector is used if its most likely token has a higher probability.
        batch_size: rows per batch, which bounds the memory.

    Raises:
        NotApplicable: the model's head is unknown.
    """
    stack = stack_of(model)
    if stack is None:
        raise NotApplicable("the head of this model cannot be read. Choose a model of Llama's kind.")
    with torch.no_grad(), disable_dropout():
        parts = [
            _name(stack.score(_normalise_rows(chunk)[None])[0], kept, concepts or {}, both_signs)
            for chunk in rows.split(batch_size)
        ]
    joined = [torch.cat(pieces) for pieces in list(zip(*parts, strict=True))[:4]]
    shares = {name: torch.cat([part.shares[name] for part in parts]) for name in concepts or {}}
    return NamedNeurons(joined[0], joined[1], joined[2], joined[3], shares)


def _normalise_rows(rows: Tensor) -> Tensor:
    """Return rows scaled to mean square 1, the scale of normalised states; zero rows stay zero."""
    size = rows.square().mean(1, keepdim=True).sqrt()
    return rows / torch.where(size > 0, size, torch.ones_like(size))


def _name(scores: Tensor, kept: int, concepts: Mapping[str, Sequence[int]], both_signs: bool) -> NamedNeurons:
    signs = torch.ones(len(scores), dtype=scores.dtype)
    if both_signs:  # the head has no bias, so the opposite vector has the opposite scores
        highest, lowest = scores.amax(1) - scores.logsumexp(1), -scores.amin(1) - (-scores).logsumexp(1)
        signs[lowest > highest] = -1
    odds = (scores * signs[:, None]).softmax(1)
    probabilities, tokens = odds.topk(kept)
    entropy = torch.special.entr(odds).sum(1)
    return NamedNeurons(
        signs,
        tokens,
        probabilities,
        entropy,
        {name: odds[:, list(concept)].sum(1) for name, concept in concepts.items()},
    )


def same_top(first: NamedNeurons, second: NamedNeurons) -> float:
    """Return the share of neurons whose most likely token is the same in two models, or before and after a change.

    Raises:
        FedsimError: the numbers of neurons differ.
    """
    if len(first.tokens) != len(second.tokens):
        raise FedsimError(
            f"the models have {len(first.tokens)} and {len(second.tokens)} neurons: expected equal numbers."
        )
    return float((first.tokens[:, 0] == second.tokens[:, 0]).double().mean())


@contextmanager
def clamp_neurons(
    model: nn.Module, layer: str, values: Mapping[int, float], place: Literal["output", "input"] = "output"
) -> Iterator[None]:
    """Set neurons of a layer to fixed values, at all positions of each forward pass.

    Args:
        model: restored after the context.
        layer: name of a module.
        values: value of each neuron by index.
        place: output: the layer's output, as for `up_proj`, before multiplication by the gate; input: the layer's
            input, as for `down_proj`, after the gate.

    Raises:
        FedsimError: unknown layer or neuron.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        raise FedsimError(f"the model has no layer '{layer}'.{did_you_mean(layer, names)}")
    module = model.get_submodule(layer)
    neurons, held = list(values), list(values.values())
    width = module.get_parameter("weight").shape[0 if place == "output" else 1]
    if invalid := [neuron for neuron in neurons if not 0 <= neuron < width]:
        raise FedsimError(f"layer '{layer}' has no neuron {invalid[0]}, expected 0 to {width - 1}.")

    def hold(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed[..., neurons] = torch.tensor(held, dtype=tensor.dtype, device=tensor.device)
        return changed

    handle = (
        module.register_forward_hook(_make_output_hook(hold))
        if place == "output"
        else module.register_forward_pre_hook(lambda _module, inputs: (hold(inputs[0]), *inputs[1:]))
    )
    try:
        yield
    finally:
        handle.remove()


def moved_neurons(change: Mapping[str, Tensor], weights: Weights = "up_proj") -> list[tuple[str, int]]:
    """Return the neurons whose rows an update changed, as (parameter, neuron), in descending order of change.

    Args:
        change: by parameter, a weight delta or a gradient.
        weights: layers to consider.
    """
    weight_changes = {name: tensor for name, tensor in change.items() if name.endswith(f"{weights}.weight")}
    lengths = {
        name: tensor.norm(dim=0 if weights == "down_proj" else 1).tolist() for name, tensor in weight_changes.items()
    }
    candidates = [
        (length, name, number) for name, sizes in lengths.items() for number, length in enumerate(sizes) if length
    ]
    return [(name, number) for _, name, number in sorted(candidates, key=lambda entry: -entry[0])]


def _make_output_hook(hold: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def change(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return hold(output)

    return change


def _modules(model: nn.Module, weights: Weights) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if name.rpartition(".")[2] == weights]


def _members(hidden: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the mask of states of each class."""
    if hidden.ndim != 2 or len(hidden) != len(labels):  # noqa: PLR2004 - (N, width)
        raise NotApplicable(f"states have shape {tuple(hidden.shape)}, expected ({len(labels)}, width).")
    if not hidden.isfinite().all():
        raise NotApplicable("some states are not finite.")
    members = [labels == label for label in range(int(labels.max()) + 1)] if len(labels) else []
    empty = [number for number, member in enumerate(members) if not member.any()]
    if len(members) < 2 or empty:  # noqa: PLR2004 - classes
        lacking = f"class {empty[0]} has none" if empty else "there is one class"
        raise NotApplicable(f"a probe needs examples of two classes or more, and of each: {lacking}.")
    return members
