"""The wall of originals and guesses: which are shown, and how."""

import re

import numpy as np
import pytest

from fedsim.report.writing import build


def test_a_guess_that_is_nearer_to_public_data_than_to_the_original_is_marked(tmp_path, records, page_of):
    record, arrays = records.with_arrays(records.run([records.arm("one", [records.attack("ig", records.missed(2))])]))
    assert "The small picture under a guess" not in page_of(page_with(records, tmp_path, record, arrays)).text
    for victim, distance in zip(record.arms[0].attacks[0].victims, (0.1, 0.9), strict=True):
        arrays[f"{victim.arrays}/guesses"][...] = 0.0
        arrays[f"{victim.arrays}/public"] = np.full((1, 1, 12, 12), round(255 * distance), np.uint8)
    page = page_of(page_with(records, tmp_path, record, arrays))
    assert "The small picture under a guess" in page.text
    near = -20 * np.log10(round(25.5) / 255)
    alts = [image["alt"] for image in page.images if image["alt"].startswith("Public picture")]
    assert alts[0] == f"Public picture nearest to this guess, {near:.1f} dB away"
    assert re.findall(r"nearer: [0-9.]+ dB", page.text) == [f"nearer: {near:.1f} dB"]


def page_with(records, folder, record, arrays):
    return build(records.save(folder, record, arrays)).read_text(encoding="utf-8")


@pytest.mark.parametrize(("shape", "colours"), [((1, 12, 12), 1), ((3, 16, 16), 3), ((2, 8, 8), 1)])
@pytest.mark.parametrize("batch", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_grey_and_colour_pictures_in_batches(report, records, shape, colours, batch):
    record = records.run([records.arm("a", [records.attack("ig", records.recovered(2, batch))])])
    record, arrays = records.with_arrays(record, shape)
    page = report(record, arrays)
    pictures = [image for image in page.images if image["src"].startswith("data:image/png")]
    assert len(pictures) == 2 * 2 * batch
    assert f"{2 * batch} of {2 * batch} examples" in page.text
    assert ("image 2" in page.text) == (batch == 3)
    if batch == 3:
        assert page.html.count("✓ readable<br>") == 6
        assert "6 of 6 images of 2 updates are readable" in page.text


def test_of_many_examples_the_percentiles_are_shown(report, records):
    record, arrays = records.with_arrays(
        records.run([records.arm("a", [records.attack("ig", records.recovered(9))]),
                     records.arm("b", [records.attack("ig", records.missed(9))])])
    )  # fmt: skip
    page = report(record, arrays)
    assert page.text.count("5 of 9 examples") == 2
    shown = re.findall(r"Guess of attack ig for round 1, client (\d)", page.html)
    assert shown == ["0", "2", "4", "6", "8"] * 2


def test_broken_pixels_do_not_break_the_report(report, records):
    record, arrays = records.with_arrays(records.run([records.arm("a", [records.attack("ig", records.missed(1))])]))
    arrays["0/0/0/guesses"][...] = np.nan
    assert len(report(record, arrays).images) > 1


def test_the_arm_where_attacks_disagree_comes_first(report, records):
    open_, telling = (
        records.arm(name, [records.attack("a", records.recovered(2)), records.attack("b", second)])
        for name, second in (("open", records.recovered(2)), ("telling", records.missed(2)))
    )
    page = report(*records.with_arrays(records.run([open_, telling])))
    assert page.html.index("<h3>telling</h3>") < page.html.index("<h3>open</h3>")
