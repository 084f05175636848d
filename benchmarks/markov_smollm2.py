"""What states of SmolLM2-135M say of tokens beyond the one that they predict, at three depths; how sure its head is.

Sentences of Lee's news. A state predicts w_1; its surplus is what it says of w_2 and w_3 beyond w_1 and, for w_3, w_2:
two differences of costs in nats, of log-linear heads that read the embeddings of these tokens, and with them the state
(32 principal components each). Tokens are the 100 most frequent ones and one for all others. Half of the sentences
teach, and a quarter of these chooses the penalties of the heads; the other half is tested. Intervals are by bootstrap
over tested sentences. Control: permuted states, treated alike. The gap is the cost of the next token less the entropy
of the head, over the whole vocabulary: 0 where the head is right.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from benchmarks._decoding import news, real_model  # noqa: E402
from benchmarks._rows import Row, main, with_interval  # noqa: E402
from fedsim.components.probe.markov_categorical import calibration_gap, estimated_surplus  # noqa: E402
from fedsim.core.layer_calls import layer_outputs  # noqa: E402
from fedsim.core.losses import IGNORED  # noqa: E402

LAYERS = ("own.model.layers.14", "own.model.layers.21", "own.model.norm")
_SENTENCES, _LENGTH, _KEPT, _WIDTH = 240, 32, 100, 32


class Places(NamedTuple):
    """Positions with three known tokens behind them.

    Attributes:
        states: by layer (N, width).
        tokens: w_1, w_2 and w_3 of each, shape (N, 3).
        texts: the sentence of each.
        gaps: cost less entropy at each.
    """

    states: dict[str, Tensor]
    tokens: Tensor
    texts: Tensor
    gaps: Tensor


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version reads four times the sentences."""
    model, data = real_model(), news(_LENGTH)
    count = _SENTENCES * (4 if full else 1)
    places = read(model, data.train.inputs[:count], data.train.labels[:count])
    is_known = places.texts < count // 2
    embedding = model.get_parameter("own.model.embed_tokens.weight").detach()
    order = torch.randperm(len(places.tokens), generator=torch.Generator().manual_seed(0))
    tested = places.texts[~is_known]
    rows = []
    for layer, states in places.states.items():
        gain = surplus(embedding, states, places.tokens, places.texts, is_known)
        rows.append(with_interval("surplus of w_2 and w_3", layer, by_text(gain, tested), "nats"))
        gain = surplus(embedding, states[order], places.tokens, places.texts, is_known)
        rows.append(with_interval("the same, permuted states (control)", layer, by_text(gain, tested), "nats"))
    rows.append(
        with_interval("cost less entropy of the next token", "head", by_text(places.gaps, places.texts), "nats")
    )
    return rows


@torch.no_grad()
def read(model: nn.Module, inputs: Tensor, labels: Tensor) -> Places:
    """Run a model over texts and return the positions that count."""
    is_read = torch.zeros_like(labels, dtype=torch.bool)
    is_read[:, :-2] = labels[:, 2:] != IGNORED  # the token three places on is known
    states: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    gaps = []
    for part, wanted, places in zip(inputs.split(20), labels.split(20), is_read.split(20), strict=True):
        with layer_outputs(model, LAYERS) as seen:
            scores = model(part)
        for name, output in seen:
            states[name].append(_tensor(output)[places])
        gaps.append(calibration_gap(scores[places], wanted[places]))
    rows, columns = is_read.nonzero(as_tuple=True)
    tokens = torch.stack([labels[rows, columns + ahead] for ahead in range(3)], 1)
    return Places({name: torch.cat(parts) for name, parts in states.items()}, tokens, rows, torch.cat(gaps))


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def surplus(embedding: Tensor, states: Tensor, tokens: Tensor, texts: Tensor, is_known: Tensor) -> Tensor:
    """Return what states say of w_2 given w_1, and of w_3 given both, at each position that is not known, in nats."""
    coordinates, total = components(states, is_known), torch.zeros(int((~is_known).sum()), dtype=torch.double)
    for ahead in (1, 2):
        context = torch.cat([components(embedding[tokens[:, before]], is_known) for before in range(ahead)], 1)
        labels = frequent(tokens[:, ahead], is_known)
        without, with_states = estimated_surplus(context, coordinates, labels, texts, is_known)
        total += without - with_states
    return total


def components(vectors: Tensor, is_known: Tensor) -> Tensor:
    """Return the coordinates of vectors along the principal components of the known ones."""
    known = vectors[is_known].double()
    mean = known.mean(0)
    directions = torch.linalg.svd(known - mean, full_matrices=False)[2][:_WIDTH]
    return (vectors.double() - mean) @ directions.T


def frequent(tokens: Tensor, is_known: Tensor, kept: int = _KEPT) -> Tensor:
    """Return for each token its rank among the most frequent known ones, or 0 for all others together."""
    values, counts = tokens[is_known].unique(return_counts=True)
    chosen = values[counts.argsort(descending=True)[:kept]]
    is_same = tokens[:, None] == chosen
    return torch.where(is_same.any(1), is_same.int().argmax(1) + 1, 0)


def by_text(values: Tensor, texts: Tensor) -> list[float]:
    """Return the mean of each text."""
    return [float(values[texts == text].mean()) for text in texts.unique()]


if __name__ == "__main__":
    main(measure, __doc__ or "")
