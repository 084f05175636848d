"""Language models on vectors in place of tokens are those on tokens."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attacks.core.matching.unknowns import MASKS, SearchProgress
from attacks.text._vectors import NextWords, VectorComparison, VectorGhostComparison, nearest_tokens, read_vectors
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.losses import IGNORED
from tests.attacks.solving import attack_named
from tests.attacks.text.texts import KNOWN, in_double, in_order
from tests.attacks.written import WRITTEN
from tests.federating import watched


def test_a_model_on_vectors_is_the_model_on_tokens() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"batch_size": 2})
    model, tokens = copy.deepcopy(observation.model), truth.original_batches[0].inputs
    read_vectors(model, "embed_tokens")
    vectors = model.get_submodule("embed_tokens").get_parameter("weight")[tokens]
    assert torch.equal(model(vectors), observation.model(tokens))
    assert torch.equal(model(tokens), observation.model(tokens))


def test_next_words_of_true_vectors_give_the_clients_loss() -> None:
    observation, truth, _ = watched(**WRITTEN, knows=KNOWN, federation={"clients": 2, "batch_size": 3})
    model, (_, labels) = copy.deepcopy(observation.model).double(), in_order(truth)
    order = (truth.original_batches[0].labels != IGNORED).sum(1).argsort(stable=True)
    outputs = model(truth.original_batches[0].inputs[order]).detach()
    table = model.get_submodule("embed_tokens").get_parameter("weight").detach()
    words = NextWords(table, torch.arange(len(table)), 0.02)
    lengths = (labels != IGNORED).sum(1)
    ours = words.loss(outputs, table[labels.clamp_min(0)], lengths)
    assert float(ours) == pytest.approx(float(observation.loss(outputs, labels)), abs=1e-10)


@pytest.mark.parametrize(("name", "settings"), [("tag", {}), ("lamp", {}), ("masked-matching", {"draws": "searched"})])
def test_the_embeddings_gradient_alone_is_refused_in_a_sentence(name: str, settings: dict[str, Any]) -> None:
    tables, shares = WRITTEN, {"visible_parameters": ("embed_tokens.*",)}
    if name == "masked-matching":
        model = {"name": "tiny-llada", "width": 64, "hidden": 64, "blocks": 1}
        tables = {**WRITTEN, "model": model, "task": "masked-diffusion"}
    observation, _, _ = watched(**tables, knows=("batch-size",), threat=shares, federation={"batch_size": 2})
    with pytest.raises(NotApplicable, match="only the gradient of 'embed_tokens.weight' is shared"):
        attack_named(name, **settings)(observation, torch.Generator())


@given(st.integers(0, 999), st.booleans())
def test_the_nearest_token_has_the_largest_cosine(seed: int, is_limited: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    table, vectors = torch.randn(12, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    allowed = torch.randperm(12, generator=generator)[:4] if is_limited else None
    choices = range(12) if allowed is None else allowed.tolist()
    for row, nearest_token in zip(
        vectors.flatten(0, 1), nearest_tokens(vectors, table, allowed).flatten(), strict=True
    ):
        assert int(nearest_token) == max(
            choices, key=lambda token: float(torch.cosine_similarity(row, table[token], dim=0))
        )


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_fast_comparison_is_the_general_one(dropout: float) -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": dropout}}
    observation, truth, _ = watched(**tables, knows=(*KNOWN, "masks"), federation={"clients": 2, "batch_size": 2})
    tasks = []
    for name in ("lamp", "tag"):
        attack = attack_named(name)
        tasks.append(attack.prepare(in_double(observation, truth)))
    assert [type(task.comparison) for task in tasks] == [VectorGhostComparison, VectorComparison]
    generator = torch.Generator().manual_seed(0)
    vectors = torch.stack([tasks[0].draw(generator) for _ in range(2)]).requires_grad_()
    own = tasks[0].unknowns.forward_values({}, SearchProgress()).get(MASKS, ())
    masks = tuple(m.repeat(2, *[1] * (m.ndim - 1)) for m in own)
    figures, slopes = [], []
    for task in tasks:
        gradients = task.comparison.gradients(vectors, masks, torch.stack([task.labels] * 2), [0, 0])
        figures.append(torch.stack((gradients.inner(), gradients.squared_norms())))
        slopes += torch.autograd.grad(gradients.inner().sum() + gradients.squared_norms().sum(), vectors)
    torch.testing.assert_close(*figures, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(*slopes, rtol=1e-7, atol=1e-12)
