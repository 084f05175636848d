"""The front door of mitigations gives texts with other traces; see also the contract of mitigations."""

import fedsim.generation
from fedsim.components.mitigation.trace_pacing import TracePacing, TracePacingConfig
from fedsim.core.types import Generated, Trace
from tests.components.mitigation.traces import LONG, source


def test_a_text_keeps_all_but_its_trace_and_seconds() -> None:
    generated = Generated(LONG, "failed", (1, 2, 3, 4, 5), reason="because", seconds=(1.0,) * 4)
    (hidden,) = fedsim.generation.veil(TracePacing(TracePacingConfig()), [generated], source())
    assert hidden == Generated(Trace((1,) * 5, LONG.events), "failed", (1, 2, 3, 4, 5), reason="because")
