"""Count the occurrences of each known sentence in a batch, including sentences that are prefixes of others.

An output layer's gradient is dL/dW = sum_n (w_n p_n - y_n) h_n^T over all prefixes n of sentences: h_n is the layer's
input, p_n the model's probabilities, w_n the weight of n in the loss, and y_n the weights of the next tokens. All h_n
are known, so if they are independent their factors follow. Few tokens follow a prefix, so w_n is the median of factor
over p_n. A sentence of t tokens has weight 1 / (B t) at each token. So B t times the excess of w_n over the weights of
its continuations is the number of sentences that end at n.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attacks.core.mean_gradient import gradient_weight
from attacks.text._sentences import has_cross_entropy
from fedsim.core.nets.layer_calls import read_by
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Observation

_Tokens = tuple[int, ...]
_LEFT = 1e-3  # tolerated residual share of the output layer's gradient, from other sentences or rounding
_INDEPENDENT = 1e-5
_OFF = 0.2  # largest distance of a count from an integer


def multiplicities(observation: Observation, sentences: Sequence[_Tokens]) -> dict[_Tokens, int] | None:
    """Return the counts of sentences and of their prefixes in the batch, or None if they are not determined.

    Args:
        observation: a single gradient of a causal model.
        sentences: none may be a prefix of another.
    """
    name, batch = _shared_output_layer(observation), observation.batch_size
    drops = any(site.rate for site in observation.sites)
    if name is None or batch is None or drops or observation.local_steps > 1 or not has_cross_entropy(observation):
        return None
    read = {
        sentence[: t + 1]: count
        for sentence in sentences
        for t, count in enumerate(_read(observation.model, name, sentence))
    }
    weights = _weights(observation, name, torch.stack(list(read.values())))
    if weights is None:
        return None
    ends = dict(zip(read, weights.tolist(), strict=True))
    for node, weight in list(ends.items()):
        if len(node) > 1:
            ends[node[:-1]] -= weight
    exact = {node: batch * len(node) * weight for node, weight in ends.items()}
    counts = {node: round(count) for node, count in exact.items()}
    is_whole = all(abs(exact[node] - count) < _OFF for node, count in counts.items())
    if not is_whole or sum(counts.values()) != batch or min(counts.values()) < 0:
        return None
    return {node: count for node, count in counts.items() if count}


def _weights(observation: Observation, layer: str, hidden: Tensor) -> Tensor | None:
    """Return the loss weights (N,) of tokens with output layer inputs `hidden` (N, d), or None if not unique."""
    gradient = observation.update.tensors[f"{layer}.weight"].double() / gradient_weight(observation)
    read = hidden.double()
    singular = torch.linalg.svdvals(read)
    if len(singular) < len(read) or singular[-1] < _INDEPENDENT * singular[0]:
        return None
    factors = gradient @ torch.linalg.pinv(read)  # (V, N)
    if (gradient - factors @ read).norm() > _LEFT * gradient.norm():
        return None
    probabilities = observation.model.get_submodule(layer)(hidden).double().softmax(-1).T
    return (factors / probabilities).median(0).values


def _shared_output_layer(observation: Observation) -> str | None:
    output = output_layer(observation.model, observation.spec.classes)
    return output[0] if output is not None and f"{output[0]}.weight" in observation.update.tensors else None


def _read(model: nn.Module, layer: str, sentence: _Tokens) -> Tensor:
    """Return the output layer's inputs at every token, shape (t, width)."""
    return read_by(model, [layer], torch.tensor([sentence]), disable_dropout())[0][0]
