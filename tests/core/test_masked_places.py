"""Which models fill in masked places."""

from torch import nn

from fedsim.core.masked_places import mask_token
from tests.components.generating import tiny_llama
from tests.components.unmasking import tiny_llada


def test_a_model_that_fills_in_places_names_its_token_and_any_other_none() -> None:
    own = tiny_llada()
    assert mask_token(own) == own.mask_token
    assert mask_token(tiny_llama()) is None
    odd = nn.Identity()
    odd.mask_token = nn.Linear(1, 1)
    assert mask_token(odd) is None
