"""The words of a batch from the codes that fired: every token tried by hand, and where codes depend on more."""

from typing import Any

import pytest
import torch

from attacks.codebooks.code_words import token_codes
from fedsim.components.bottleneck.codebook import codebooks, reading
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.losses import IGNORED
from fedsim.core.types import Truth
from tests.attacks.solving import attack_named, hiding
from tests.attacks.written import WRITTEN
from tests.federating import watched

VALUES = "layers.0.self_attn.v_proj"
KNOWN = ("batch-size", "dropout-rates")


def book(at: str = VALUES, **settings: Any) -> list[dict[str, Any]]:
    return [{"name": "codebook", "at": [at], "codes": 40, "active": 2, "loss": "base", **settings}]


def words_of(truth: Truth) -> set[int]:
    batch = truth.original_batches[0]
    return set(batch.inputs[batch.labels != IGNORED].tolist())


@pytest.mark.parametrize(("batch_size", "groups"), [(1, 1), pytest.param(3, 2, marks=pytest.mark.slow)])
def test_the_guess_is_every_token_whose_codes_all_fired(batch_size: int, groups: int) -> None:
    tables = {**WRITTEN, "federation": {"clients": 2, "batch_size": batch_size}}
    observation, truth, world = watched(**tables, components=book(groups=groups), knows=KNOWN)
    guess = attack_named("code-words")(observation, torch.Generator().manual_seed(0))
    words, codes = words_of(truth), codebooks(observation.model)[VALUES]
    own: dict[int, set[tuple[int, int]]] = {}
    with torch.no_grad():
        for token in range(observation.spec.vocabulary or 0):
            with reading(observation.model) as seen:
                observation.model(torch.tensor([[token]]))
            found = seen[VALUES][0][0, 0]
            own[token] = {(group, code) for group in range(groups) for code in found[group].tolist()}
    fired = set().union(*(own[token] for token in words))
    expected = {token for token, codes_ in own.items() if codes_ <= fired and token != observation.spec.padding}
    found = {token for token in guess.inputs.flatten().tolist() if token >= 0}
    assert found == expected
    assert words <= found
    assert guess.diagnostics[f"codes read at '{VALUES}'"] == len(fired)
    by_code = [[token for token in expected if code in own[token]] for code in fired]
    assert guess.diagnostics["tokens that alone explain a code"] == len({own_[0] for own_ in by_code if len(own_) == 1})
    assert codes.codes.shape[0] == groups
    (component,) = world.stack.components
    assert set(component.scores(world.models.load_weights(world.models.first_weights), truth, guess).values()) == {1.0}


def test_codes_behind_an_attention_depend_on_more_than_their_token() -> None:
    place = "layers.0.self_attn.o_proj"
    observation, _, _ = watched(**WRITTEN, components=book(place, side="input"), knows=KNOWN)
    assert token_codes(observation, torch.Generator().manual_seed(0)) == {}
    with pytest.raises(NotApplicable, match="depend on more than their token"):
        attack_named("code-words")(observation, torch.Generator().manual_seed(0))


def test_dropout_in_front_makes_the_codes_of_a_token_random() -> None:
    tables = {**WRITTEN, "model": {**WRITTEN["model"], "dropout": 0.3}}
    observation, _, _ = watched(**tables, components=book(), knows=KNOWN)
    with pytest.raises(NotApplicable, match="or on dropout"):
        attack_named("code-words")(observation, torch.Generator().manual_seed(0))


def test_without_a_codebook_or_its_rows_it_does_not_apply() -> None:
    plain, _, _ = watched(**WRITTEN, knows=KNOWN)
    assert attack_named("code-words").not_applicable(plain) == "the model has no codebook"
    observation, _, _ = watched(**WRITTEN, components=book(), knows=KNOWN)
    hidden = hiding(observation, *(name for name in observation.update.tensors if name.endswith("codes")))
    assert attack_named("code-words").not_applicable(hidden) == "the gradient of no codebook is shared"
