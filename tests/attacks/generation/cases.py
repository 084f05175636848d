"""Cases of known traces: two prompts, whose texts take steps of one or of two tokens, and what no text changes."""

import torch

from fedsim.core.hooks import Mitigation
from fedsim.core.types import Event, Generated, Trace, TraceView
from fedsim.generation import veil
from fedsim.questions.generation.side_channels import GeneratedTexts, case_of
from fedsim.questions.generation.types import TraceCase, TraceQuestion

LENGTH = 12


def text(pace: int, length: int = LENGTH) -> Generated:
    """A text of steps of `pace` tokens, whose tokens and seconds name the pace too."""
    steps = length // pace
    trace = Trace((pace,) * steps, (Event(accepted=pace, layers=3),) * steps)
    return Generated(trace, "length", (pace,) * length, seconds=(0.25 * pace,) * steps)


def speech(question: TraceQuestion, copies: int = 12, leaks: bool = True) -> GeneratedTexts:
    """Texts of two prompts, or of members and others; the latter half of each is seen."""
    truth = (0,) * copies + (1,) * copies
    texts = tuple(text(1 + (own if leaks else 0)) for own in truth)
    half = question in ("prompt", "member")
    known = tuple(half and place % copies < copies // 2 for place in range(2 * copies))
    first = tuple(place % copies == 0 for place in range(2 * copies))
    return GeneratedTexts(question, texts, truth, known, first if question == "planted" else ())


def case(question: TraceQuestion, view: TraceView, leaks: bool = True, hidden: Mitigation | None = None) -> TraceCase:
    """What an attacker gets of these texts."""
    own = speech(question, leaks=leaks)
    if hidden is not None:
        own = own.of(veil(hidden, own.texts, torch.Generator().manual_seed(0)))
    return case_of(own, view, range(len(own.seen_truth)))
