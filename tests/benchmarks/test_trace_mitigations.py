"""What a mitigation costs in tokens a second, against sums by hand and a decoder that leaks by construction."""

import pytest

from benchmarks.side_channels import Arm, Setting
from benchmarks.trace_mitigations import clock, paces, rows
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
    found = list(rows(Arm("toy-leaky", decoder, setting), Judging()))
    by_setting = {row.setting: {r.name: r for r in found if r.setting == row.setting} for row in found}
    known = [name for name, method in registry.methods("component").items() if method.hook == "mitigation"]
    slowest = "trace-padding, steps as long as the slowest"
    assert set(by_setting) == {f"toy-leaky, {name}" for name in ("no mitigation", *known, slowest)}
    assert by_setting["toy-leaky, no mitigation"]["pace over that without"].value == 1.0
    padded, slow = by_setting["toy-leaky, trace-padding"], by_setting[f"toy-leaky, {slowest}"]
    # The first of three writes two tokens a step, and is padded to four steps.
    assert padded["pace over that without"].value == pytest.approx((0.5 + 1 + 1) / 3)
    assert slow["a step"].value >= padded["a step"].value
    assert [padded[f"about the prompt by {view}"].value for view in ("counts", "work")] == [0.0, 0.0]
