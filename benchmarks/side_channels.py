"""What the trace of every decoder gives away: one table for all that the registry has.

The model of scenario 60 is trained once, and every decoder writes with it what that scenario asks for, at temperature
0.3 where it has one. Greedy is the zero control: its schedule depends on no text. `--decoder` picks some, `--set
NAME.KEY=VALUE` changes settings, `--page` writes docs/benchmarks/side-channels.md. Without `--full` fewer texts.
`--protocol` asks the questions about prompts alone, of 50 prompts with 30 texts each, at any `--temperature`, and
prints a line for the page of each decoder. A decoder whose parts clients can train runs a second time, with them.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
from collections.abc import Iterable, Iterator, Sequence  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import torch  # noqa: E402

from fedsim.core import registry  # noqa: E402
from fedsim.core.errors import FedsimError, reason  # noqa: E402
from fedsim.core.hooks import Decoder  # noqa: E402
from fedsim.experiment.training import train  # noqa: E402
from fedsim.record import Finding  # noqa: E402
from fedsim.scenario import GenerationSettings, Scenario, load, parse  # noqa: E402
from fedsim.scenario.reading import read_settings  # noqa: E402
from fedsim.scenario.world import build  # noqa: E402
from fedsim.threat.side_channels import Judging, TraceInquiry  # noqa: E402
from fedsim.threat.trace_study import Material, Speaker, TraceQuestion, study  # noqa: E402
from fedsim.threat.written_texts import inquiries_of, material_of, speaker_of  # noqa: E402

_ROOT = Path(__file__).parent.parent
_SCENARIO = _ROOT / "scenarios" / "60_decoder_side_channels.toml"
_PAGE = _ROOT / "docs" / "benchmarks" / "side-channels.md"
_TEMPERATURE = 0.3
_SHORT = {"repeats": 6, "candidates": 30}
_PROTOCOL = {"prompts": 50, "repeats": 30}
_ABOUT_PROMPTS = [
    {"name": name, "view": view} for name in ("trace-forest", "trace-figures") for view in ("counts", "work")
]
_ALWAYS: dict[str, dict[str, Any]] = {  # what they do without says nothing
    "awrs": {"regex": "[^0-9]{400}", "ends": "whole"}
}
_TRAINED: dict[str, dict[str, Any]] = {  # the clients' component that trains parts of a decoder
    "lexical-unit": {"name": "pad-blocks", "sure": 0.5}
}
_QUESTIONS = {
    "prompt": "Which prompt?",
    "member": "Trained on or not?",
    "planted": "What was planted?",
    "bits": "How many bits about the prompt?",
}
_VIEWS = {"counts": "packets", "work": "work", "outputs": "the text itself"}
_HEAD = """# What a decoder's trace gives away

`python -m benchmarks.side_channels{options}` wrote this page on {day}: the model of scenario
`60_decoder_side_channels.toml`, trained once, and every decoder that the registry has, at temperature {temperature:g}
where it has one. {prompts} prompts of the clients, {repeats} texts each, of which the attacker asked for two thirds
itself; {candidates} members and as many others; secrets ranked among {others} others of their form. What questions,
views and controls mean stands in [Side channels of generation](../attacks/side-channels.md). "must succeed" and
"chance" mark controls. Greedy decoding is the zero control: its schedule depends on no text. Bits of exposure and of
information; in brackets 95% intervals, n prompts, texts or secrets as the tables below say.
"""


class Line(NamedTuple):
    """One finding about one decoder."""

    decoder: str
    settings: str
    tokens_a_step: float = 0.0
    question: str = ""
    attack: str = ""
    view: str = ""
    role: str = ""
    figure: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    chance: float | None = None
    p: float | None = None
    longer: float | None = None
    larger: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Setting:
    """What every decoder gets."""

    speaker: Speaker
    material: Material
    inquiries: list[tuple[TraceQuestion, TraceInquiry]]
    judging: Judging


class Arm(NamedTuple):
    """A decoder under the name that the table has, with its settings in words."""

    name: str
    settings: str
    decoder: Decoder[Any, Any]
    setting: Setting

    @property
    def speaker(self) -> Speaker:
        """The model with this decoder."""
        return replace(self.setting.speaker, decoder=self.decoder)


def prepare(scenario: Scenario) -> Setting:
    """Train the scenario's model once."""
    world = build(scenario)
    journal = train(world, lambda _round: None)
    speaker = speaker_of(world, journal.weights)
    return Setting(speaker, material_of(world, journal), inquiries_of(world), Judging(scenario.seed))


def scenario(full: bool, protocol: bool = False, components: Sequence[dict[str, Any]] = ()) -> Scenario:
    """Return scenario 60 with one decoder; the short version has fewer texts, that of the protocol more of less.

    Args:
        full: as many texts as the scenario has.
        protocol: those of the protocol.
        components: what clients train with.
    """
    raw: dict[str, Any] = load(_SCENARIO, []).model_dump(mode="json") | {"components": list(components)}
    raw["arms"], raw["expected"], raw["generation"]["decoder"] = {}, {}, {"name": "greedy"}
    if protocol:
        raw["generation"] |= {"repeats": _PROTOCOL["repeats"], "attacks": _ABOUT_PROMPTS}
        raw["generation"]["prompts"]["count"] = _PROTOCOL["prompts"]
    elif not full:
        raw["generation"] |= _SHORT
        raw["generation"]["prompts"]["count"] = 15
    return parse(raw, "benchmark")


def decoders(
    names: Sequence[str], settings: Sequence[str], temperature: float = _TEMPERATURE
) -> Iterator[Decoder[Any, Any]]:
    """Yield the registry's decoders, or those of these names."""
    for name, method in sorted(registry.methods("component").items()):
        if method.hook != "decoder" or (names and name not in names):
            continue
        fields = method.config.model_fields
        given = {key: field.examples[0] for key, field in fields.items() if field.is_required() and field.examples}
        given |= {"temperature": temperature} if "temperature" in fields else {}
        given |= _ALWAYS.get(name, {})
        chosen = [setting.removeprefix(f"{name}.") for setting in settings if setting.startswith(f"{name}.")]
        changed = read_settings(method, chosen).model_dump(exclude_unset=True) if chosen else {}
        yield method.make(method.config.model_validate(given | changed)).named(name)


def arms(full: bool, protocol: bool, writers: Iterable[Decoder[Any, Any]]) -> Iterator[Arm]:
    """Yield these decoders, and once more with what clients trained those whose parts they can train."""
    setting = prepare(scenario(full, protocol))
    for decoder in writers:
        words = _in_words(decoder.config.model_dump(exclude_unset=True))
        yield Arm(decoder.name, words, decoder, setting)
        if component := _TRAINED.get(decoder.name):
            trained = prepare(scenario(full, protocol, [component]))
            yield Arm(f"{decoder.name}, trained", f"{words}; clients: {_in_words(component)}", decoder, trained)


def lines(arm: Arm) -> list[Line]:
    """Return all findings about one decoder, or the line that says why it does not run here."""
    setting = arm.setting
    try:
        done = study(arm.speaker, setting.material, setting.inquiries, setting.judging)
    except FedsimError as error:
        return [Line(arm.name, arm.settings, why=reason(error))]
    different = {id(speech.texts): speech.texts for speech in done.speeches}.values()  # prompt and bits share theirs
    paces = [
        sum(text.trace.tokens) / len(text.trace.tokens) for texts in different for text in texts if text.trace.tokens
    ]
    pace = statistics.fmean(paces) if paces else 0.0
    return [_line(arm.name, arm.settings, pace, finding) for finding in done.findings]


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _line(name: str, settings: str, pace: float, finding: Finding) -> Line:
    interval = finding.value
    return Line(
        decoder=name,
        settings=settings,
        tokens_a_step=pace,
        question=str(finding.about["question"]),
        attack=finding.label,
        view=str(finding.about["view"]),
        role=finding.role,
        figure=finding.metric,
        value=interval and interval.value,
        low=interval and interval.low,
        high=interval and interval.high,
        n=interval.n if interval else 0,
        chance=finding.chance,
        p=finding.p,
        longer=_value(finding, "times_the_steps"),
        larger=_value(finding, "times_the_tokens"),
        why=finding.failure or "",
    )


def _value(finding: Finding, name: str) -> float | None:
    return finding.more[name].value if name in finding.more else None


def as_table(rows: Sequence[Line]) -> str:
    """Return Markdown: what was found of every decoder in one table, then a table a question with all controls."""
    parts = [_overview(rows)]
    for question, title in _QUESTIONS.items():
        of_question = [row for row in rows if row.question == question]
        if of_question:
            head = "| decoder | attack | view | figure | found | interval | chance | p | n | costs |"
            body = "\n".join(map(_cells, of_question))
            parts.append(f"## {title}\n\n{head}\n|---|---|---|---|---|---|---|---|---|---|\n{body}")
    return "\n\n".join(parts)


def _overview(rows: Sequence[Line]) -> str:
    """Return a line a decoder and a column an attack without mitigation; chance stands first, of bits below."""
    shown = [row for row in rows if row.role == "attack" and row.longer is None]
    columns = list(dict.fromkeys((row.question, row.attack) for row in shown))
    chances = {(row.question, row.attack): row for row in shown if row.question != "bits"}
    head = ["decoder", "settings", "tokens a step", *(f"{question}: {attack}" for question, attack in columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    at_chance = [_number(line, line.chance) if (line := chances.get(key)) else "" for key in columns]
    lines.append(f"| (chance) | | | {' | '.join(at_chance)} |")
    for line in {row.decoder: row for row in rows}.values():
        if not line.question:
            lines.append(f"| {line.decoder} | {_settings(line)} | does not run here: {line.why} |{' |' * len(columns)}")
            continue
        by_attack = {(row.question, row.attack): row for row in shown if row.decoder == line.decoder}
        cells = [_short(one) if (one := by_attack.get(key)) else "" for key in columns]
        lines.append(f"| {line.decoder} | {_settings(line)} | {line.tokens_a_step:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def as_protocol(rows: Sequence[Line]) -> str:
    """Return the table for the pages of decoders: a line a decoder, and a column a question and view."""
    columns = [(question, view) for question in ("prompt", "bits") for view in ("counts", "work", "outputs")]
    heads = [f"{'bits, ' * (question == 'bits')}{_VIEWS[view]}" for question, view in columns]
    lines = [f"| decoder | settings | {' | '.join(heads)} |", f"|{'---|' * (2 + len(heads))}"]
    for name in dict.fromkeys(row.decoder for row in rows):
        of_name = [row for row in rows if row.decoder == name]
        by_attack = [row for row in of_name if row.attack.startswith("trace-") and row.role != "chance"]
        by_view = {(row.question, row.view): _brief(row) for row in by_attack}
        cells = [by_view.get(column, of_name[0].why) for column in columns]
        lines.append(f"| {name} | {_settings(of_name[0])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _brief(row: Line) -> str:
    if row.value is None or row.low is None or row.high is None:
        return "failed"
    if row.question == "prompt":
        return f"{row.value:.0%} [{100 * row.low:.0f}, {100 * row.high:.0f}]"
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}], p {row.p:.2f}"


def _settings(row: Line) -> str:
    return row.settings.replace("|", "\\|")


def _short(row: Line) -> str:
    if row.value is None:
        return "failed"
    p = "" if row.p is None else f", p {row.p:.2f}"
    return f"{_number(row, row.value)} [{_bounds(row)}]{p}"


def _cells(row: Line) -> str:
    role = "" if row.role == "attack" else f" ({row.role})"
    start = f"| {row.decoder} | {row.attack}{role} | {row.view} | {registry.every_metric()[row.figure].title}"
    if row.value is None:
        return f"{start} | {row.why} | | | | | |"
    chance = "" if row.chance is None else _number(row, row.chance)
    p = "" if row.p is None else f"{row.p:.2f}"
    costs = "" if row.longer is None else f"{row.longer:.2f} x steps, {row.larger:.2f} x tokens"
    return f"{start} | {_number(row, row.value)} | {_bounds(row)} | {chance} | {p} | {row.n} | {costs} |"


def _number(row: Line, value: float | None) -> str:
    metric = registry.every_metric()[row.figure]
    digits = metric.digits + 1 if metric.form == "percent" else metric.digits
    return "" if value is None else f"{value * metric.scale:.{digits}f}{'%' if metric.form == 'percent' else ''}"


def _bounds(row: Line) -> str:
    return f"{_number(row, row.low)} to {_number(row, row.high)}" if row.low is not None else "n too small"


def as_page(rows: Sequence[Line], shown_scenario: Scenario, options: str) -> str:
    """Return the page of documentation."""
    table = GenerationSettings.model_validate(shown_scenario.questions["generation"].settings)
    head = _HEAD.format(
        options=options,
        day=f"{datetime.now(UTC):%d %B %Y}",
        temperature=_TEMPERATURE,
        prompts=table.prompts.count,
        repeats=table.repeats,
        candidates=table.candidates,
        others=table.others,
    )
    return f"{head}\n{as_table(rows)}\n"


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="as many texts as scenario 60 has")
    size.add_argument("--protocol", action="store_true", help="50 prompts with 30 texts each; about prompts alone")
    parser.add_argument("--temperature", type=float, default=_TEMPERATURE, help="of decoders that draw")
    parser.add_argument("--page", action="store_true", help=f"write {_PAGE.relative_to(_ROOT)} too")
    parser.add_argument("--decoder", action="append", default=[], help="one of those to compare; absent: all")
    parser.add_argument("--set", action="append", default=[], metavar="NAME.KEY=VALUE", help="a decoder's setting")
    chosen = parser.parse_args()
    if chosen.page and (chosen.protocol or chosen.temperature != _TEMPERATURE):
        parser.error(f"--page is for all questions, at temperature {_TEMPERATURE:g}")
    chosen_decoders = decoders(chosen.decoder, chosen.set, chosen.temperature)
    rows = [row for arm in arms(chosen.full, chosen.protocol, chosen_decoders) for row in lines(arm)]
    if chosen.page:
        options = " --full" if chosen.full else ""
        _PAGE.write_text(as_page(rows, scenario(chosen.full), f"{options} --page"), encoding="utf-8")
    if chosen.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return
    print(*([as_protocol(rows), ""] if chosen.protocol else []), as_table(rows), sep="\n")


if __name__ == "__main__":
    main()
