"""The answer of an overview in words."""

import pytest

from fedsim.applicability.overview import AttackOverview, AttackRow, describe_duration, read_heading


def row(name: str, effort: str = "search", seconds: float = 3.0, chance: float = 0.5) -> AttackRow:
    return AttackRow(name, effort, "images", "a gradient", seconds, chance)


def overview(*rows: AttackRow) -> AttackOverview:
    return AttackOverview(4, "image", rows, (), ())


def test_the_first_exact_attack_is_the_answer() -> None:
    unlikely, exact = row("a", chance=0.2), row("b")
    assert overview(unlikely, exact).sentence == (
        "2 attacks apply to a batch of 4; expect exact images from b within 3 seconds."
    )


def test_descents_are_estimates_and_nothing_is_an_answer_too() -> None:
    assert overview(row("a", "descent")).sentence == ("1 attack applies to a batch of 4; estimates of images at best.")
    assert overview().sentence == "No attack that `auto` tries applies to a batch of 4."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "a second"), (1.0, "a second"), (1.1, "2 seconds"), (99.5, "100 seconds"), (100.0, "2 minutes")],
)
def test_durations_are_rounded_up(seconds: float, words: str) -> None:
    assert describe_duration(seconds) == words


def test_a_heading_is_read_with_its_further_lines() -> None:
    doc = "x: y.\n\nIdea: a.\nRecovers: images\n    and labels.\nFails: never."
    assert read_heading(doc, "Recovers") == "images and labels."
    assert read_heading(doc, "Fails") == "never."
    assert read_heading(doc, "Assumes") == ""
