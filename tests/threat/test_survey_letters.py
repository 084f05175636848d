"""Letters of threat models follow the rows of their table: more knowledge is never an earlier letter."""

from itertools import combinations

import pytest

from fedsim.core.types import Knowledge, Server
from fedsim.threat.survey_letters import NAMES, letter, sentence

GRANTS: tuple[Knowledge, ...] = ("batch-size", "input-statistics", "labels")


@pytest.mark.parametrize(
    ("server", "knows", "has_public_data", "expected"),
    [
        ("honest-but-curious", (), False, "A"),
        ("honest-but-curious", ("labels",), True, "A"),
        ("honest-but-curious", ("batch-size",), False, "C"),
        ("honest-but-curious", ("batch-size", "input-statistics"), False, "C"),
        ("honest-but-curious", ("batch-size",), True, "D"),
        ("honest-but-curious", ("batch-size", "input-statistics"), True, "E"),
        ("malicious", ("batch-size",), False, "F"),
        ("malicious", ("batch-size",), True, "G"),
    ],
)
def test_each_row_has_its_letter(
    server: Server, knows: tuple[Knowledge, ...], has_public_data: bool, expected: str
) -> None:
    assert letter(server, knows, has_public_data=has_public_data) == expected
    assert NAMES[expected] in sentence(server, knows, has_public_data=has_public_data)


def test_whoever_knows_more_never_has_an_earlier_letter() -> None:
    sets = [set[Knowledge](combination) for n in range(4) for combination in combinations(GRANTS, n)]
    letters = {frozenset(own): letter("honest-but-curious", own, has_public_data=True) for own in sets}
    for few in sets:
        for many in (own for own in sets if few <= own):
            assert letters[frozenset(few)] <= letters[frozenset(many)]


def test_grants_that_no_row_has_are_named() -> None:
    told = sentence("honest-but-curious", ("batch-size", "labels", "masks"), has_public_data=False)
    assert told.endswith("it is C, the parameter-aware eavesdropper, and is granted labels, masks beyond it.")
    assert "statistics beyond" not in sentence(
        "honest-but-curious", ("batch-size", "input-statistics"), has_public_data=True
    )
