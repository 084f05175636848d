"""Texts and a speaker to study traces with."""

from typing import Any

from fedsim.core.types import Limits
from fedsim.questions.generation.study import SecretWithDecoys, StudyInputs, TextGenerator
from tests.components.decoder.lettered import Letters
from tests.components.generating import LEAKING, VOCABULARY, make, tiny_llama

SECRETS = tuple(
    SecretWithDecoys(
        "never",
        (3, number),
        tuple((3, number, other, 1) for other in range(4)),
        tuple((3, number, other) for other in range(4)),
        is_planted,
        100,
    )
    for number, is_planted in ((5, True), (6, True), (8, False))
)


MATERIAL = StudyInputs(
    prompts=((LEAKING, 1, 2), (1, 2, 3), (4, 5, 6), (LEAKING, 9)),
    texts_per_prompt=6,
    members=tuple((LEAKING, number, 1, 2) for number in range(12)),
    non_members=tuple((1, number, 1, 2) for number in range(12)),
    length=2,
    secrets=SECRETS,
)


class Numbers(Letters):
    """Tokens that are no letters."""

    vocabulary, end = VOCABULARY, VOCABULARY - 1

    def decode(self, tokens: Any) -> str:
        return " ".join(map(str, tokens))


def speaker(decoder: str = "toy-leaky") -> TextGenerator:
    return TextGenerator(tiny_llama().eval(), make(decoder), Numbers(), Limits(max_new_tokens=6))
