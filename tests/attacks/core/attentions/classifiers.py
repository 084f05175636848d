"""Classifiers of texts, one gradient of theirs, and what an attack reads of it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry, seeding
from fedsim.core.types import InputSpec, Observation, Reconstruction, ThreatModel
from tests.attacks.solving import observed as seen

VOCABULARY, LENGTH, WIDTH = 1000, 8, 96
START, END = 2, 3  # tokens that every sentence begins and ends with


def encoder(seed: int) -> nn.Module:
    """Return a classifier whose weights are as far from zero as those of trained encoders; it does not drop out."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        max_position_embeddings=16, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.05, attn_implementation="eager",
    )  # fmt: skip
    with seeding.isolate_randomness(seed):
        model = transformers.BertForSequenceClassification(config)
    model.register_forward_hook(lambda _module, _inputs, output: output.logits)
    return model


def sentences(count: int, seed: int) -> Tensor:
    tokens = torch.randint(4, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return F.pad(F.pad(tokens[:, 1:-1], (1, 0), value=START), (0, 1), value=END)


def observed(model: nn.Module, tokens: Tensor, padding: int | None = None, **given: Tensor) -> Observation:
    """Return what a server sees of one gradient of a classifier."""
    loss = F.cross_entropy(model(tokens, **given), torch.arange(len(tokens)) % 2)
    names, weights = zip(*model.named_parameters(), strict=True)
    tensors = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    vocabulary = next(part.num_embeddings for part in model.modules() if isinstance(part, nn.Embedding))
    task = registry.get("task", "text-classification")
    spec = InputSpec((tokens.shape[1],), 2, (), (), vocabulary, padding)
    return seen(model, spec, tensors, len(tokens), threat=ThreatModel(), task=task.make(task.config()))


def attacked(name: str, observation: Observation, **changes: Any) -> Reconstruction:
    method = registry.get("attack", name)
    return method.make(method.config(**changes))(observation, seeding.generator(0, "attack"))


def read(result: Reconstruction) -> set[tuple[int, ...]]:
    return {tuple(token for token in row if token >= 0) for row in result.inputs.tolist()}
