"""Beginnings and repeats are counted."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.attacks.text.spans import FOUR, LENGTH, REPEATED, attacked, gpt2, inputs_of, llama, read, seen


@pytest.mark.parametrize("build", [llama, lambda: gpt2(tied=False)])
def test_beginnings_and_repeats_come_back_as_often_as_they_are_there(build: Callable[[], nn.Module]) -> None:
    found = attacked(seen(build(), REPEATED))
    assert read(found) == inputs_of(REPEATED)
    assert not found.notes


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_multiset_of_beginnings_is_counted(data: st.DataObject) -> None:
    cuts = st.tuples(st.sampled_from(FOUR), st.integers(2, LENGTH + 1))
    sentences = [own[:end] for own, end in data.draw(st.lists(cuts, min_size=1, max_size=8))]
    assert read(attacked(seen(llama(), sentences))) == inputs_of(sentences)
