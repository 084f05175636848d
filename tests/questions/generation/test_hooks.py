"""The base of attacks on traces checks what it is asked, and what an author answers."""

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Config
from fedsim.questions.generation.hooks import TraceAttack
from fedsim.questions.generation.types import TraceCase
from tests.attacks.generation.cases import case


@pytest.mark.parametrize(
    ("answered", "message"),
    [
        (torch.zeros(3), r"an answer for 12 texts has the shape \(3,\)"),
        (torch.full((12,), torch.nan), "not finite"),
    ],
)
def test_an_answer_that_is_none_is_refused(answered: torch.Tensor, message: str) -> None:
    class Strange(TraceAttack[Config]):
        questions = ("prompt",)

        def search(self, case: TraceCase, generator: torch.Generator) -> torch.Tensor:
            return answered

    with pytest.raises(FedsimError, match=message):
        Strange(Config())(case("prompt", "counts"), torch.Generator())
