"""What the packets of every decoder say of the prompt: all decoders that the registry has.

The model of scenario 60 is trained once, and every decoder answers its clients' prompts with it, at temperature 0.3
where it has one. Greedy is the zero control: its schedule depends on no text. With ``--full`` 50 prompts and 30 texts
of each, as in the paper. A decoder whose parts clients can train runs a second time, with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, interval_row, mean_row
from fedsim.core import registry
from fedsim.core.errors import FedsimError, reason
from fedsim.core.hooks import Decoder
from fedsim.experiment.training import train
from fedsim.questions.generation.side_channels import ScoringOptions, TraceInquiry
from fedsim.questions.generation.study import StudyInputs, TextGenerator, TraceQuestion, study
from fedsim.questions.generation.texts import inquiries_of, material_of, speaker_of
from fedsim.record import Finding
from fedsim.scenario import Scenario, load, parse
from fedsim.scenario.world import build

_ROOT = Path(__file__).parent.parent
_SCENARIO = _ROOT / "scenarios" / "60_decoder_side_channels.toml"
_TEMPERATURE = 0.3
_ATTACKS = [{"name": "trace-forest"}, {"name": "trace-figures"}]
_ALWAYS: dict[str, dict[str, Any]] = {  # what they do without says nothing
    "awrs": {"regex": "[^0-9]{400}", "ends": "whole"}
}
_TRAINED: dict[str, dict[str, Any]] = {  # the clients' component that trains parts of a decoder
    "sure-spans": {"name": "pad-blocks", "sure": 0.5}
}
_QUESTIONS = {"prompt": "which prompt", "bits": "bits about the prompt"}


class Texts(NamedTuple):
    """How many prompts are asked, and how many texts of each are read."""

    prompts: int
    texts_per_prompt: int


SHORT, WHOLE = Texts(30, 9), Texts(50, 30)


@dataclass(frozen=True)
class Setting:
    """What every decoder gets."""

    speaker: TextGenerator
    material: StudyInputs
    inquiries: list[tuple[TraceQuestion, TraceInquiry]]
    scoring_options: ScoringOptions


class Arm(NamedTuple):
    """A decoder, under a name that has its settings."""

    name: str
    decoder: Decoder[Any, Any]
    setting: Setting

    @property
    def speaker(self) -> TextGenerator:
        """The model with this decoder."""
        return replace(self.setting.speaker, decoder=self.decoder)


def prepare(scenario: Scenario) -> Setting:
    """Train the scenario's model once."""
    world = build(scenario)
    journal = train(world, lambda _round: None)
    speaker = speaker_of(world, journal.weights)
    return Setting(speaker, material_of(world, journal), inquiries_of(world), ScoringOptions(scenario.seed))


def scenario(texts: Texts, components: Sequence[dict[str, Any]] = ()) -> Scenario:
    """Return scenario 60 with one decoder and questions about prompts alone.

    Args:
        texts: how many.
        components: what clients train with.
    """
    raw: dict[str, Any] = load(_SCENARIO, []).model_dump(mode="json") | {"components": list(components)}
    raw["arms"] = {}
    raw["generation"] |= {
        "decoder": {"name": "greedy"},
        "texts_per_prompt": texts.texts_per_prompt,
        "attacks": _ATTACKS,
    }
    raw["generation"]["prompts"]["count"] = texts.prompts
    return parse(raw, "benchmark")


def decoders(names: Sequence[str] = ()) -> Iterator[Decoder[Any, Any]]:
    """Yield the registry's decoders, or those of these names."""
    for name, method in sorted(registry.methods("component").items()):
        if method.hook != "decoder" or (names and name not in names):
            continue
        fields = method.config.model_fields
        given = {key: field.examples[0] for key, field in fields.items() if field.is_required() and field.examples}
        given |= {"temperature": _TEMPERATURE} if "temperature" in fields else {}
        yield method.make(method.config.model_validate(given | _ALWAYS.get(name, {}))).with_name(name)


@experiment("side-channels", minutes=5, page="benchmarks/side-channels")
def side_channels(budget: Budget) -> Cells:
    """Return a cell for each decoder, and one more where clients can train parts of it."""
    texts = WHOLE if budget.full else SHORT
    return {name: partial(_rows_of, name, decoder, texts) for decoder in decoders() for name in arms_of(decoder.name)}


def _rows_of(name: str, decoder: Decoder[Any, Any], texts: Texts) -> Iterator[Row]:
    yield from rows(arm(name, decoder, texts))


def arms_of(decoder: str) -> list[str]:
    """Return the names of a decoder's arms: its own, and one whose parts clients trained."""
    return [decoder, *([f"{decoder}, trained"] if decoder in _TRAINED else [])]


def arm(name: str, decoder: Decoder[Any, Any], texts: Texts) -> Arm:
    """Return a decoder with its model, which clients trained it with where the arm's name is not its own."""
    components = (_TRAINED[decoder.name],) if name != decoder.name else ()
    settings = _format_settings(decoder.config.model_dump(exclude_unset=True))
    return Arm(
        f"{name}, {settings}" if settings else name, decoder, _prepare_setting(texts, bool(components), decoder.name)
    )


@cache
def _prepare_setting(texts: Texts, is_trained: bool, decoder: str) -> Setting:
    if not is_trained and decoder:
        return _prepare_setting(texts, False, "")
    return prepare(scenario(texts, (_TRAINED[decoder],) if is_trained else ()))


def rows(one: Arm) -> Iterator[Row]:
    """Yield all findings about one decoder, or the row that says why it does not run here."""
    setting = one.setting
    try:
        done = study(one.speaker, setting.material, setting.inquiries, setting.scoring_options)
    except FedsimError as error:
        yield Row("tokens a step", one.name, 0.0, "tokens", n=0, note=f"does not run here: {reason(error)}")
        return
    different = {id(speech.texts): speech.texts for speech in done.speeches}.values()  # prompt and bits share theirs
    paces = [
        sum(text.trace.tokens) / len(text.trace.tokens) for texts in different for text in texts if text.trace.tokens
    ]
    yield mean_row("tokens a step", one.name, paces or [0.0], "tokens")
    yield from (_row(one.name, finding) for finding in done.findings)


def _format_settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _row(decoder: str, finding: Finding) -> Row:
    role = "" if finding.role == "attack" else f" ({finding.role})"
    name = f"{_QUESTIONS[str(finding.scope['question'])]}: {finding.label}{role}"
    metric = registry.every_metric()[finding.metric]
    if finding.value is None:
        return Row(name, decoder, 0.0, metric.title, n=0, note=finding.failure or "")
    note = "" if finding.p_value is None else f"p {finding.p_value:.2f}"
    return interval_row(name, decoder, finding.value, metric.title, note=note)
