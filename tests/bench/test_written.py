"""Lists of names are read back; strictly only as they are printed."""

import pytest

from fedsim.bench.written import NAMES, SIGNS, decode, encode, read_list, write_list
from fedsim.data._lists import LETTERS


def test_a_list_is_printed_and_read_back() -> None:
    assert write_list([0, 6]) == '["Ada Adler", "Ben Brandt"]'
    assert len(set(NAMES)) == len(NAMES) >= LETTERS
    for items in ([3], [5, 1, 25], [0, 1, 2, 3, 4, 5]):
        text = write_list(items)
        assert decode(encode(text)) == text
        assert read_list(text, strict=True) == read_list(text, strict=False) == items
    assert set("".join(NAMES)) < set(SIGNS)


@pytest.mark.parametrize(
    ("text", "lenient"),
    [
        ("[Ada Adler, Ben Brandt]", [0, 6]),  # no quotes
        ('["Ada Adler","Ben Brandt"]', [0, 6]),  # no blank
        ('Here: ["Ada Adler", "Ben Brandt"]', [0, 6]),
        ('["Ada Adler"] ["Ben Brandt"]', [6]),  # the last one
        ('["Ada Adler", "Ben Brandt"', None),
        ('"Ada Adler", "Ben Brandt"]', None),
        ('["Ada", "Ben Brandt"]', None),
        ("[]", None),
    ],
)
def test_quotes_and_blanks_may_be_missing_unless_it_is_strict(text: str, lenient: list[int] | None) -> None:
    assert read_list(text, strict=False) == lenient
    assert read_list(text, strict=True) is None


def test_no_edit_of_one_sign_is_read_strictly_as_the_same_list() -> None:
    text = write_list([2, 9])
    for place in range(len(text)):
        assert read_list(text[:place] + text[place + 1 :], strict=True) != [2, 9]
