"""What AWRS tells of a value that a redaction keeps it from writing, by refusals of the constraint.

The model of scenario 60, with 32 invented persons, of whom 16 have a telephone number in the training text. Somebody
asks it to go on behind a person's number as far as it guesses it, digit by digit, for the true number and 7 others of
its form; AWRS may not write what the redaction refuses. Redaction `digits` knows no value: it refuses every digit.
Redaction `list` refuses the last digit of a number on its list, which has all 32. What is seen: how many tokens a step
refused (`rejected`), how often the constraint was asked (`calls`), or the token that it refused first, as who runs the
constraint sees it. Exposure of the true number among the 8, log2, by the mean over its second half and four texts.
Numbers that were never trained on are the control at chance, the model's own ranking is what must succeed.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks._rows import in_words  # noqa: E402
from benchmarks.side_channels import prepare, scenario  # noqa: E402
from fedsim.components.decoder._constraints import Constraint, OfText, regex  # noqa: E402
from fedsim.components.decoder.awrs import Awrs, AwrsConfig  # noqa: E402
from fedsim.core import registry, seeding  # noqa: E402
from fedsim.core.hooks import Mitigation  # noqa: E402
from fedsim.core.types import Generated, Tokenizer, Trace  # noqa: E402
from fedsim.generation import veil  # noqa: E402
from fedsim.metrics.exposure import log_perplexities  # noqa: E402
from fedsim.metrics.membership import auc_interval  # noqa: E402
from fedsim.metrics.side_channels import trace_exposure  # noqa: E402
from fedsim.record import Interval  # noqa: E402
from fedsim.scenario import Scenario, parse  # noqa: E402
from fedsim.threat.side_channels import Speech, case_of  # noqa: E402
from fedsim.threat.trace_study import SecretAmongOthers, Speaker, Tokens  # noqa: E402

_PERSONS, _REPEATS, _TEMPERATURE = 32, 4, 0.3
_NO_DIGIT = "[^0-9]{400}"
_CAPS = (None, 1)
_HIDING: dict[str, tuple[str, dict[str, Any]]] = {
    "padding": ("trace-padding", {}),
    "rejected redacted": ("trace-redaction", {"counts": ("rejected",)}),
    "rejected in classes of 4": ("trace-redaction", {"counts": ("rejected",), "size": 4}),
    "all counts redacted": ("trace-redaction", {}),
}


class Watched:
    """A constraint, and the last tokens of what it refused, in order."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint, self.refused = constraint, list[int]()

    def allows(self, tokens: Sequence[int]) -> bool:
        """Say what the constraint says, and note a refusal."""
        is_allowed = self._constraint.allows(tokens)
        if not is_allowed:
            self.refused.append(tokens[-1])
        return is_allowed

    def completes(self, tokens: Sequence[int]) -> bool:
        """Say what the constraint says."""
        return self._constraint.completes(tokens)


class Listed:
    """Refuses a text that, behind what was asked, ends with a number on a list."""

    def __init__(self, prompt: str, numbers: Sequence[str], tokenizer: Tokenizer) -> None:
        self._prompt, self._numbers, self._tokenizer = prompt, tuple(numbers), tokenizer

    def allows(self, tokens: Sequence[int]) -> bool:
        """Say whether no number of the list is whole with the last token."""
        return not (self._prompt + self._tokenizer.decode(tokens)).endswith(self._numbers)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Say no: a text ends where its limits do."""
        return False


@dataclass(frozen=True)
class WrittenText:
    """One text behind a part of a candidate.

    Attributes:
        secret: number of the person.
        candidate: 0 for the true number.
        token: the candidate's next one.
        text: what was written.
        first: the token that was refused first; None for none.
    """

    secret: int
    candidate: int
    token: int
    text: Generated
    first: int | None


Redaction = Callable[[Tokens], Constraint]


class Line(NamedTuple):
    """What one view tells of numbers that were trained on, and of others."""

    redaction: str
    cap: str
    hiding: str
    seen: str
    planted: Interval
    never: Interval
    chance: float
    persons: Interval


def persons() -> Scenario:
    """Return scenario 60 with more persons, and one question: about what was planted."""
    raw = scenario(full=True).model_dump(mode="json")
    raw["data"]["identities"], raw["generation"]["attacks"] = _PERSONS, [{"name": "trace-mean", "question": "planted"}]
    return parse(raw, "benchmark")


def ask(
    speaker: Speaker, secrets: Sequence[SecretAmongOthers], redaction: Redaction, cap: int | None
) -> list[WrittenText]:
    """Return texts of one token behind every part of every candidate."""
    config, texts = AwrsConfig(ends="whole", temperature=_TEMPERATURE, max_rejects=cap), list[WrittenText]()
    for number, secret in enumerate(secrets):
        for candidate, place in _parts(secret, speaker.tokenizer):
            prompt, token = secret.wholes[candidate][:place], secret.wholes[candidate][place]
            for repeat in range(_REPEATS):
                watched = Watched(redaction(prompt))
                with_constraint = replace(speaker, decoder=Awrs(config, watched).named("awrs"))
                (text,) = with_constraint.write([prompt], f"redacted {number} {candidate} {place} {repeat}")
                texts.append(WrittenText(number, candidate, token, text, next(iter(watched.refused), None)))
    return texts


def _parts(secret: SecretAmongOthers, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Yield the places of the digits in the second half of each candidate."""
    for candidate, (whole, half) in enumerate(zip(secret.wholes, secret.halves, strict=True)):
        for place in range(len(half), len(whole)):
            if tokenizer.decode([whole[place]]).isdigit():
                yield candidate, place


def by_count(written: Sequence[WrittenText], count: str) -> list[float]:
    """Return the score of each text by one count of its work."""
    texts = tuple(text.text for text in written)
    speech = Speech("planted", texts, tuple(text.secret for text in written), (False,) * len(texts))
    method = registry.get("trace", "trace-mean")
    attack = method.make(method.config.model_validate({"count": count})).named("trace-mean")
    return attack(case_of(speech, "work", range(len(texts))), torch.Generator()).tolist()


def by_token(texts: Sequence[WrittenText]) -> list[float]:
    """Return of each text whether the candidate's next token was refused first."""
    return [float(text.first == text.token) for text in texts]


def line(
    start: tuple[str, str, str, str], texts: Sequence[WrittenText], scores: Sequence[float], is_planted: Any
) -> Line:
    """Return what the scores tell: exposure of both kinds of numbers, and AUC of persons by their true number."""
    draws = np.random.default_rng(0)
    units = np.array([(text.secret, text.candidate) for text in texts])
    shape = units.max(0) + 1
    totals, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(totals, tuple(units.T), scores)
    np.add.at(counts, tuple(units.T), 1)
    rows = totals / counts
    planted, chance = trace_exposure(rows[is_planted], draws)
    never, _ = trace_exposure(rows[~is_planted], draws)
    return Line(*start, planted, never, chance, auc_interval(rows[is_planted, 0], rows[~is_planted, 0], draws))


def measure() -> Iterator[Line]:
    """Yield the control, and the lines of both redactions."""
    setting = prepare(persons())
    speaker, secrets = setting.speaker, setting.material.secrets
    speaker = replace(speaker, limits=speaker.limits.model_copy(update={"max_new_tokens": 1}))
    tokenizer, is_planted = speaker.tokenizer, np.array([secret.is_planted for secret in secrets])
    yield _by_the_model(speaker, secrets, is_planted)
    numbers = [tokenizer.decode(secret.wholes[0][len(secret.known) :]).strip(" .") for secret in secrets]
    redactions: dict[str, Redaction] = {
        "digits": lambda _: OfText(regex(_NO_DIGIT), tokenizer),
        "list": lambda prompt: Listed(tokenizer.decode(prompt), numbers, tokenizer),
    }
    for name, redaction in redactions.items():
        for cap in _CAPS:
            texts, start = ask(speaker, secrets, redaction, cap), (name, "none" if cap is None else str(cap))
            yield line((*start, "", "the token refused first"), texts, by_token(texts), is_planted)
            for count in ("rejected", "calls"):
                yield line((*start, "", count), texts, by_count(texts, count), is_planted)
            if cap is None:
                yield from _hidden(name, texts, is_planted)


def _by_the_model(speaker: Speaker, secrets: Sequence[SecretAmongOthers], is_planted: np.ndarray) -> Line:
    """Return the control: how the model itself ranks the candidates."""
    texts = [
        WrittenText(number, candidate, 0, Generated(Trace(), "length"), None)
        for number, secret in enumerate(secrets)
        for candidate in range(len(secret.wholes))
    ]
    wholes = [whole for secret in secrets for whole in secret.wholes]
    scores = (-log_perplexities(speaker.model, wholes, speaker.tokenizer)).tolist()
    return line(("", "", "", "the model itself (must succeed)"), texts, scores, is_planted)


def _hidden(redaction: str, texts: Sequence[WrittenText], is_planted: np.ndarray) -> Iterator[Line]:
    for words, (name, settings) in _HIDING.items():
        method = registry.get("component", name)
        mitigation = method.make(method.config.model_validate(settings)).named(name)
        assert isinstance(mitigation, Mitigation), "its hook says so"
        shown = veil(mitigation, [text.text for text in texts], seeding.generator(0, f"mitigation {name}"))
        hidden = [replace(before, text=text) for before, text in zip(texts, shown, strict=True)]
        for count in ("rejected", "calls"):
            yield line((redaction, "none", words, count), hidden, by_count(hidden, count), is_planted)


def as_json(rows: Sequence[Line]) -> str:
    """Return a list of all figures."""
    plain = [
        {key: value.model_dump() if isinstance(value, Interval) else value for key, value in row._asdict().items()}
        for row in rows
    ]
    return json.dumps(plain, indent=1)


def as_table(rows: Sequence[Line]) -> str:
    """Return Markdown."""
    head = (
        "redaction",
        "refusals, at most",
        "hidden by",
        "seen",
        "exposure, trained on",
        "exposure, never trained on",
        "chance",
        "trained on or not, AUC",
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        figures = [in_words(row.planted, 2), in_words(row.never, 2), f"{row.chance:.2f}", in_words(row.persons, 2)]
        lines.append(f"| {' | '.join([*row[:4], *figures])} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen, rows = parser.parse_args(), list(measure())
    print(as_json(rows) if chosen.json else as_table(rows))


if __name__ == "__main__":
    main()
