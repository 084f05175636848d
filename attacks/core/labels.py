"""Infer labels from the gradient of the last linear layer: db_c = (1/B) sum_i (p_ic - [y_i = c]).

The rules of iDLG (arXiv 2001.02610), of GradInversion (Yin et al., arXiv 2104.07586), of Wainakh et al. (arXiv
2105.09369) and a counting rule. Dropout in front of the layer changes only p, so the rules hold. For several local
steps db is the mean over the steps, and p the mean along the straight line from the received to the trained weights
(arXiv 2206.12395).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from attacks.core.mean_gradient import gradient_weight
from fedsim.components.core.key_value import KeyValueModel, VotingDecoder
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.layer_calls import layer_inputs
from fedsim.core.nets.masks import keep_masks
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Observation

_PROBES = 64
_MOST_POINTS = 8

LabelRule = Literal["counting", "distinct", "negative", "impact"]


def infer_labels(observation: Observation, rule: LabelRule = "counting") -> Tensor:
    """Return one label per example, in ascending order for several examples.

    Args:
        observation: with a batch size, or of one example.
        rule: for several examples. counting: with mean probabilities of noise inputs. distinct and negative: no class
            twice, from the smallest entries of the weight gradient or of the bias gradient. impact: from row sums of
            the weight gradient. Ignored for a single example.

    Raises:
        NotApplicable: the model has neither a linear layer with one output per class nor values that are logits, or the
            labels are no classes.
    """
    if observation.task.label_kind != "class":
        raise NotApplicable(f"the labels cannot be inferred: they are {observation.task.labels_in_words}, not classes")
    tensors = {**observation.unreliable_tensors, **observation.update.tensors}
    examples = examples_of(observation)
    values = _votes(observation)
    if values in tensors:
        return _vote_labels(observation, tensors[values], examples)
    name, layer = _shared_output_layer(observation)
    weight = tensors[f"{name}.weight"]
    bias = tensors.get(f"{name}.bias") if layer.bias is not None else None
    if examples == 1:
        return label_of_one(weight, bias)
    if rule == "distinct":
        return distinct_labels(weight, examples)
    if rule == "impact":
        return impact_labels(weight, examples)
    if rule == "negative":
        return negative_labels(bias if bias is not None else weight.sum(1), examples)
    probabilities, feature_sum = _probe(observation, name)
    logit_gradient = (bias if bias is not None else weight.sum(1) / feature_sum) / gradient_weight(observation)
    return count_labels(logit_gradient, probabilities, examples)


def labels_of(observation: Observation, rule: LabelRule = "counting") -> Tensor:
    """Return granted labels, or else inferred labels; their number is `examples_of`."""
    if observation.labels is None:
        return infer_labels(observation, rule)
    return observation.labels[: examples_of(observation)]


def blank_labels(observation: Observation, count: int) -> Tensor:
    """Return zero labels, shape (count, *label_shape), for a forward pass in which the loss value is irrelevant."""
    dtype = torch.long if are_classes(observation) else next(observation.model.parameters()).dtype
    return torch.zeros(count, *observation.label_shape, dtype=dtype)


def random_labels(observation: Observation, count: int, generator: torch.Generator) -> Tensor:
    """Return random labels of the task's kind, shape (count, *label_shape)."""
    shape = (count, *observation.label_shape)
    if are_classes(observation):
        return torch.randint(observation.spec.classes, shape, generator=generator)
    blank = blank_labels(observation, count)
    if observation.task.label_kind == "numbers":
        return torch.randn(shape, generator=generator).to(blank)
    return torch.randint(2, shape, generator=generator).to(blank)


def are_classes(observation: Observation) -> bool:
    """Return whether labels are class indices, of examples or of pixels (H, W); masks (C, H, W) hold 0 and 1."""
    kind = observation.task.label_kind
    return kind == "class" or (kind == "mask" and len(observation.label_shape) == len(observation.spec.shape) - 1)


def examples_of(observation: Observation) -> int:
    """Return the number of examples that an attack searches; 1 if the number is unknown."""
    return observation.examples or observation.batch_size or 1


def label_of_one(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the label of a single example, shape (1,), from the gradients (K, D) and (K,) of the last layer.

    With a bias, the true class has the only negative entry. Without a bias, row c is (p_c - [c = y]) h: the true row is
    antiparallel to all others.
    """
    if bias is not None:
        return bias.argmin().view(1)
    products = weight @ weight.T
    products.fill_diagonal_(0.0)
    return products.sum(1).argmin().view(1)


def distinct_labels(weight: Tensor, batch_size: int) -> Tensor:
    """Return `batch_size` distinct labels (an assumption): the rows (K, D) with the smallest entries (Yin et al.)."""
    return weight.min(1).values.topk(batch_size, largest=False).indices.sort().values


def negative_labels(logit_gradient: Tensor, batch_size: int) -> Tensor:
    """Return `batch_size` distinct labels (an assumption): the smallest entries of db (K,).

    The entries of the true classes are negative for few examples. Without a bias, pass row sums of the weight gradient;
    this needs nonnegative features.
    """
    return logit_gradient.topk(batch_size, largest=False).indices.sort().values


def impact_labels(weight: Tensor, batch_size: int) -> Tensor:
    """Return labels with repeats from the row sums of the weight gradient (K, D) (Wainakh et al.).

    Each example lowers the sum of its class by about the same amount, the impact. First, every class with a negative
    sum is chosen once. Then the class with the lowest sum, after subtraction of the impact of chosen labels, is chosen
    until the batch is complete. The rule fails for unequal probabilities, and for batches larger than the number of
    classes, where few sums are negative.
    """
    sums = weight.sum(1).double()
    impact = sums.clamp_max(0.0).sum() * (1.0 + 1.0 / len(sums)) / batch_size
    order = sums.argsort()
    labels = order[: min(batch_size, int((sums < 0.0).sum()))].tolist()
    sums[labels] -= impact
    while len(labels) < batch_size:
        labels.append(int(sums.argmin()))
        sums[labels[-1]] -= impact
    return torch.tensor(sorted(labels))


def count_labels(logit_gradient: Tensor, probabilities: Tensor, batch_size: int) -> Tensor:
    """Return labels with repeats: n_c = B (p_c - db_c), rounded to sum B by the largest remainders.

    Args:
        logit_gradient: db, shape (K,).
        probabilities: mean predicted probabilities of the batch, or a guess, shape (K,).
        batch_size: B.
    """
    counts = (batch_size * (probabilities - logit_gradient)).clamp_min(0.0).double()
    counts = counts * (batch_size / counts.sum().clamp_min(1e-12))
    whole = counts.floor().long()
    short = batch_size - int(whole.sum())
    whole[(counts - whole).topk(short).indices] += 1
    return torch.arange(len(whole)).repeat_interleave(whole)


def _votes(observation: Observation) -> str | None:
    """Return the name of the values of a key-value bottleneck, if they are logits, or None."""
    key_values = (m for m in observation.model.modules() if isinstance(m, KeyValueModel))
    table = next(
        (module.table.entries.weight for module in key_values if isinstance(module.decoder, VotingDecoder)), None
    )
    return next((name for name, p in observation.model.named_parameters() if p is table), None)


@torch.no_grad()
def _vote_labels(observation: Observation, gradient: Tensor, examples: int) -> Tensor:
    """Return labels from the gradient of values (C J, K), with rows that sum to db; p is measured on a grey image."""
    logit_gradient = gradient.sum(0) / gradient_weight(observation)
    if examples == 1:
        return logit_gradient.argmin().view(1)
    grey = torch.zeros(1, *observation.spec.shape).to(gradient)
    return count_labels(logit_gradient, observation.model(grey)[0].softmax(-1), examples)


def _shared_output_layer(observation: Observation) -> tuple[str, nn.Linear]:
    output = output_layer(observation.model, observation.spec.classes)
    if output is None:
        raise NotApplicable("the labels cannot be inferred: the model has no last linear layer with a row per class")
    if f"{output[0]}.weight" in observation.hidden_parameters - observation.unreliable_tensors.keys():
        raise NotApplicable(f"the labels cannot be inferred: the gradient of the last layer '{output[0]}' is hidden")
    return output


@torch.no_grad()
def _probe(observation: Observation, head: str) -> tuple[Tensor, Tensor]:
    """Return mean class probabilities (K,), and the mean sum of the last layer's input features, both on noise."""
    model = observation.working_copy("train")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((_PROBES, *observation.spec.shape), generator=generator).to(next(model.parameters()))
    steps = min(observation.local_steps, _MOST_POINTS)
    with keep_masks(generator), layer_inputs(model, [head]) as seen:
        outputs = torch.stack([_move(model, observation, step / steps)(noise) for step in range(steps)])
    return outputs.softmax(2).mean((0, 1)), torch.stack([features for _, features in seen]).sum(2).mean()


def _move(model: nn.Module, observation: Observation, share: float) -> nn.Module:
    """Set the weights of `model` to this share of the way from the received to the trained weights."""
    for name, parameter in model.named_parameters():
        if name in observation.update.tensors:
            received = observation.model.get_parameter(name)
            parameter.copy_(received - share * observation.update.tensors[name] if share else received)
    return model
