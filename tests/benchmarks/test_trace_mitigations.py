"""What a mitigation costs in tokens a second, against sums by hand and a decoder that leaks by construction."""

import json

import pytest

from benchmarks.side_channels import Arm, Setting
from benchmarks.trace_mitigations import as_json, as_table, clock, measure, paces
from fedsim.core import registry
from fedsim.core.types import Event, Generated, Limits, Trace
from fedsim.threat.side_channels import Judging
from fedsim.threat.trace_study import Material, Speaker
from tests.components.decoder.lettered import Letters
from tests.components.generating import LEAKING, make, tiny_llama


def text(*tokens: int) -> Generated:
    return Generated(Trace(tokens, (Event(layers=1),) * len(tokens)), "length", (1,) * sum(tokens))


def test_a_text_lasts_as_many_steps_as_are_taken_or_shown() -> None:
    written = [text(2, 2), text(1, 1, 1, 1), text(4)]
    assert paces(written, written, (0, 0, 1), 0.5) == pytest.approx([8 / 3, 8])
    padded = [text(4, 4, 4, 4)] * 3
    assert paces(written, padded, (0, 0, 1), 0.5) == pytest.approx([2, 2])
    grouped = [text(4), text(4), text(4)]  # fewer packets make nobody faster
    assert paces(written, grouped, (0, 0, 1), 0.5) == pytest.approx([8 / 3, 8])
    cut = [text(2), text(1, 1), text(2)]  # what is not sent is not counted
    assert paces(written, cut, (0, 0, 1), 0.5) == pytest.approx([4 / 3, 4])


def test_the_clock_counts_every_step_and_the_slowest_is_slower() -> None:
    speaker = Speaker(tiny_llama(), make("greedy"), Letters(), Limits(max_new_tokens=3))
    found = clock(speaker, [(1, 2), (2, 3)])
    assert found.steps == 6
    assert 0 < found.mean <= found.slowest


def test_every_mitigation_has_a_line_and_padding_one_more_for_the_work() -> None:
    decoder = make("toy-leaky")
    speaker = Speaker(tiny_llama(), decoder, Letters(), Limits(max_new_tokens=4))
    setting = Setting(speaker, Material(prompts=((LEAKING, 1), (1, 2), (2, 3)), repeats=4), [], Judging())
    rows = list(measure(Arm("toy-leaky", "", decoder, setting), Judging()))
    known = [name for name, method in registry.methods("component").items() if method.hook == "mitigation"]
    assert [row.mitigation for row in rows] == ["", *sorted([*known, "trace-padding"])]
    plain, *hidden = rows
    assert plain.share == [1.0] * 3
    padded = [own for own in hidden if own.mitigation == "trace-padding"]
    assert padded[0].share == pytest.approx(
        [0.5, 1.0, 1.0]
    )  # the first writes two tokens a step, and is padded to four steps
    assert padded[1].step >= padded[0].step
    assert [bit.value.value for bit in padded[0].bits if bit.value] == [0.0, 0.0]
    assert as_table(rows).count("\n") == 1 + len(rows)
    assert len(json.loads(as_json(rows))) == len(rows)
