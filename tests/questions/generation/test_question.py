"""What generation gives away: what was written stands first, and every finding says of whose texts it is."""

from types import SimpleNamespace
from typing import Any

import pytest

from fedsim.core import registry
from fedsim.core.errors import FedsimError
from fedsim.core.types import Event, Generated, Trace
from fedsim.questions.base import Evidence, QuestionContext
from fedsim.questions.generation import question as asking
from fedsim.questions.generation.question import GenerationQuestion
from fedsim.questions.generation.settings import GenerationSettings
from fedsim.questions.generation.texts import GenerationStudy
from fedsim.record import Finding, Interval

ADED = {"name": "aded", "depth": 4, "table": None}
TEXTS = [
    Generated(Trace((2, 1)), "length", (1, 2, 3)),
    Generated(Trace((2, 1)), "length", (4, 5, 6)),
    Generated(Trace((2, 1)), "length", (7, 8, 9)),
    Generated(Trace(), "failed", reason="no way on."),
]
TOLD = Finding(
    question="generation",
    label="forest",
    method="trace-forest",
    scope={"question": "prompt", "view": "counts"},
    metric="prompt_accuracy",
    value=Interval(value=0.6, low=0.5, high=0.7, n=50),
    chance_level=0.02,
)


def asked(
    monkeypatch: pytest.MonkeyPatch, written: GenerationStudy | Exception, **table: Any
) -> tuple[list[Finding], QuestionContext]:
    """Return what a generation finds whose model wrote this, or failed so."""

    def give(*_: object) -> GenerationStudy:
        if isinstance(written, Exception):
            raise written
        return written

    module, way = (asking.sampled_images, "draw") if table.get("decoder") == "heun" else (asking.written_texts, "speak")
    monkeypatch.setattr(module, way, give)
    monkeypatch.setattr(asking, "time", SimpleNamespace(perf_counter=iter((10.0, 13.0)).__next__))
    world = SimpleNamespace(scenario=SimpleNamespace(seed=3, scoring=SimpleNamespace(confidence=0.95)))
    question = GenerationQuestion(GenerationSettings.model_validate({"decoder": ADED, **table}))
    work = QuestionContext()
    return list(question.run(Evidence(world, None), work)), work  # type: ignore[arg-type]


def test_what_was_written_is_told_before_what_that_gave_away(monkeypatch: pytest.MonkeyPatch) -> None:
    (context, told), work = asked(monkeypatch, GenerationStudy(TEXTS, (TOLD,), {"tokens": ["2 1"]}))
    assert (context.role, context.label, context.metric, context.method) == (
        "context",
        "aded",
        "tokens_per_step",
        "aded",
    )
    assert context.seconds == 3.0
    assert (context.value.value, context.n) == (1.5, 3)  # of two steps 2 + 1 tokens; a text without steps has no pace
    assert context.scope == {"by": "aded", "texts": 4, "ended length": 3, "ended failed": 1}
    assert context.note == ("aded (depth = 4), the global model: 4 texts; ended 1 by failed, 3 by length. no way on.")
    assert work.items == {"generation/traces": {"tokens": ["2 1"]}}
    assert (context.items, told.items) == ("generation/traces", "")
    assert told.label == "forest (prompt)"
    assert told.scope == {"question": "prompt", "view": "counts", "by": "aded"}
    assert told.model_copy(update={"label": TOLD.label, "scope": TOLD.scope}) == TOLD


def test_a_client_s_model_is_named_and_without_traces_there_is_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    (context,), work = asked(monkeypatch, GenerationStudy(TEXTS[:1], ()), model="client", decoder="greedy")
    assert context.note == "greedy, the client's model: 1 text; ended 1 by length."
    assert (context.items, work.items) == ("", {})


def test_samples_are_no_texts_and_have_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [Generated(Trace(), "finished")] * 2
    (context,), _ = asked(monkeypatch, GenerationStudy(drawn, ()), decoder="heun")
    assert "2 samples; ended 2 by finished." in context.note
    assert context.value is None


COUNTED = [
    Generated(Trace((2, 1), (Event(layers=6), Event(layers=3))), "length", (1, 2, 3)),
    Generated(Trace((1,), (Event(layers=5, rows=2),)), "length", (4,)),
    Generated(Trace(), "failed", reason="no way on."),
]


def test_each_count_of_the_traces_is_a_mean_over_texts_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, layers, rows), _ = asked(monkeypatch, GenerationStudy(COUNTED, ()))
    assert [found.label for found in (layers, rows)] == ["layers per token", "rows per token"]
    assert {(found.role, found.metric) for found in (layers, rows)} == {("context", "mean_count")}
    assert (layers.value.value, layers.n) == ((9 / 3 + 5 / 1) / 2, 2)
    assert rows.value.value == (0 / 3 + 2 / 1) / 2


def test_counts_of_images_are_sums_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [Generated(Trace((0, 0), (Event(passes=count), Event(passes=1))), "finished") for count in (1, 4)]
    (_, passes), _ = asked(monkeypatch, GenerationStudy(drawn, ()), decoder="heun")
    assert passes.label == "passes per image"
    assert (passes.value.value, passes.n) == (3.5, 2)


@pytest.mark.parametrize("error", [FedsimError("the draft is gone."), RuntimeError("the draft is gone.")])
def test_a_decoder_that_wrote_nothing_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    (context,), work = asked(monkeypatch, error)
    assert "the draft is gone." in context.failure
    assert (context.label, context.value, context.state, work.items) == ("aded", None, "failed", {})
    assert context.seconds == 3.0


def test_it_is_registered_under_the_name_of_its_table() -> None:
    assert registry.get("question", "generation").make is GenerationQuestion


def test_a_fitted_setting_is_recorded_and_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = {"name": "svdecode", "strength": "calibrate", "confidence": 0.2}
    written = GenerationStudy(TEXTS[:1], [], {}, {"strength": 1.23456})
    (context,), _ = asked(monkeypatch, written, decoder=decoder)
    assert context.settings == {"strength": 1.23456, "confidence": 0.2}
    assert context.note.startswith("svdecode (strength = 1.235, fitted, confidence = 0.2), the global model: 1 text;")
