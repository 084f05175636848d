"""auto: run every attack that applies and is no baseline, from cheap and exact to expensive, and keep the best guess.

Idea: a defender must expect an attacker that chooses the best attack for the situation. This attack measures ranks,
    conditioning, zeros and noise, then tries attacks in the order of their effort; a guess that explains the gradient
    exactly ends it.
Equation: argmin over guesses x of 1 - cos(g(x, masks), g*), with the best masks for each x; under noise on held-out
    tensors. The best image is refined, and the refinement counts only if it explains the gradient better.
Assumes: the attacker knowledge that the scenario grants; attacks that need more are left out, with the reason in the
    notes.
Recovers: as the winning attack; a known change of the batch (transforms, mixtures) is then undone.
Fails: when no attack applies. If known noise hides the whole gradient, it tries no search. For several local steps it
    compares the attacks' own objectives, a weaker test.
Source: this project; the notes name the attack that won.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor

from attacks.combined._diagnostics import Leak, leak_of
from attacks.combined._drowned import why_drowned
from attacks.combined._judge import FittedGuess, GuessJudge
from attacks.core.batches import order_guess
from attacks.core.labels import labels_of
from attacks.core.progress import Numbered
from attacks.core.results import no_guess
from attacks.mixed_batches._undo_defenses import CONVINCING, changes_batch, explains_mixtures, undone
from attacks.text._sentences import complete, explains
from attacks.text._words import words_of
from fedsim.core.candidates import Candidate, rank_candidates
from fedsim.core.errors import NotApplicable, describe_exception
from fedsim.core.hooks import IMAGES_AND_TEXT, Attack, LabelFreeAttack
from fedsim.core.registry import attack
from fedsim.core.time_budget import OUT_OF_TIME, seconds_left, time_limit
from fedsim.core.types import Config, Modality, Observation, OnStep, Reconstruction, View

_NAME = "auto"
_FOR_SEARCHES = 0.7  # share of the time for searches; the rest is for the comparison of their guesses


class AutoConfig(Config):
    """Settings of the attacker."""

    max_iterations: int = Field(
        default=2000, ge=1, description="about how many gradients each attack that descends may take"
    )
    mask_iterations: int = Field(
        default=200, ge=1, description="iterations to find the masks of a guess, and to refine the best guess"
    )
    leave_out: tuple[str, ...] = Field(default=(), description="attacks not to try")


Way = Callable[[torch.Generator, OnStep], Reconstruction]


@dataclass(frozen=True)
class _Tried:
    name: str
    guess: Reconstruction


class _Attempts:
    """Guesses so far, the reasons why other attacks gave none, and whether any attack ran or lacked only time."""

    def __init__(self, observation: Observation, generator: torch.Generator, counted: Numbered) -> None:
        self._observation, self._generator, self._counted = observation, generator, counted
        self.tried: list[_Tried] = []
        self.passed: list[str] = []
        self.ran = False

    def note_failure(self, candidate: Candidate) -> None:
        """Note the error of an attack that failed to state its cost."""
        if candidate.failure:
            self.passed.append(f"{candidate.name} {candidate.failure}")

    def fits(self, candidate: Candidate) -> bool:
        """Return whether an attack applies; the reason for a refusal is noted."""
        refusal = candidate.refusal(self._observation)
        if refusal:
            self.passed.append(f"{candidate.name} {refusal}")
        return not refusal

    def leave_out(self, name: str) -> None:
        """Note that no time is left for an applicable attack."""
        self.ran = True
        self.passed.append(f"{name} was left out: no time was left")

    def succeed(self, name: str, candidate: Attack[Any], seconds: float) -> bool:
        """Run an attack from each possible start, within `seconds` of CPU time; return whether it ends the attempts."""
        with time_limit(seconds):
            ways = _ways(self._observation, name, candidate, tuple(self.tried))
            return any(self.ends_with(words, partial(way, self._generator, self._counted)) for words, way in ways)

    def ends_with(self, name: str, search: Callable[[], Reconstruction]) -> bool:
        """Run a search, store its guess or its failure, and return whether it ends the attempts."""
        try:
            guess = search()
        except NotApplicable as reason:
            self.passed.append(f"{name} does not apply: {reason}")
            return False
        except Exception as error:  # a bug in an attack must not hide the guesses of the others
            if self._counted.has_stopped:
                raise
            self.passed.append(f"{name} failed: {describe_exception(error)}")
            return False
        self.ran = True
        if not len(guess.inputs):
            self.passed.append(f"{name} found nothing: {guess.stop_reason}")
            return False
        if guess.stop_reason == OUT_OF_TIME:
            self.passed.append(f"{name} was ended by its share of the time")
        self.tried.append(_Tried(name, guess))
        return _ends(self._observation, guess)


@final
@attack(_NAME, summary="runs every applicable attack and keeps the guess that explains the gradient best", tier="core")
class Auto(LabelFreeAttack[AutoConfig]):
    """Runs other attacks and compares their guesses."""

    views: ClassVar[frozenset[View]] = frozenset({"single-update", "sum"})
    uses_earlier_rounds: ClassVar[bool] = True
    modalities: ClassVar[frozenset[Modality]] = IMAGES_AND_TEXT

    def search(self, observation: Observation, generator: torch.Generator, on_step: OnStep) -> Reconstruction:
        """Try, compare and refine; then undo the changes of the batch by known defenses."""
        counted = Numbered(on_step)
        drowned = why_drowned(observation)
        if drowned is not None:
            return self._solve_only(observation, drowned, generator, counted)
        if not changes_batch(observation):
            return self._guess_model_inputs(observation, generator, counted)
        unmixed, why = self._undone(observation, generator, counted)
        if unmixed is not None and unmixed.objective < CONVINCING:
            return unmixed
        tried, passed, ran = self._attempt(observation, generator, counted, undoing=True)
        reports = [_report(attempt.guess, leak_of(observation), [f"won: {attempt.name}", *passed]) for attempt in tried]
        guesses = [*([] if unmixed is None else [unmixed]), *reports]
        if not guesses and not ran:
            raise NotApplicable("; ".join([why, *passed]))
        return min(guesses, key=lambda guess: guess.objective, default=_nothing(observation, [why, *passed]))

    def _solve_only(
        self, observation: Observation, drowned: str, generator: torch.Generator, counted: Numbered
    ) -> Reconstruction:
        """Return the guess of the attacks that take milliseconds: searches would fit noise."""
        attempts = _Attempts(observation, generator, counted)
        candidates = self._candidates(observation, attempts, undoing=False)
        for candidate in takewhile(lambda own: own.attack.effort == "algebra", candidates):
            if attempts.fits(candidate):
                attempts.succeed(candidate.name, candidate.attack, seconds_left())
        reason = f"no search was tried: {drowned}"
        if not attempts.tried:
            return no_guess(observation, reason, notes=tuple(attempts.passed))
        return _lowest(attempts.tried, leak_of(observation), [reason, *attempts.passed])

    def _undone(
        self, observation: Observation, generator: torch.Generator, counted: Numbered
    ) -> tuple[Reconstruction | None, str]:
        """Return the batch before the change, or as the model saw it if the change cannot be undone; or the failure."""
        try:
            seen = self._guess_model_inputs(observation, generator, counted)
        except NotApplicable as reason:
            return None, str(reason)
        if not len(seen.inputs):
            return None, "; ".join(seen.notes)
        return undone(observation, seen, generator) or seen, ""

    def _guess_model_inputs(
        self, observation: Observation, generator: torch.Generator, counted: Numbered
    ) -> Reconstruction:
        """Return the best guess of the batch as the model saw it."""
        leak = leak_of(observation)
        tried, passed, ran = self._attempt(observation, generator, counted, undoing=False)
        if not tried and ran:
            return _nothing(observation, passed)
        if not tried:
            raise NotApplicable("; ".join(passed))
        if _ends(observation, tried[-1].guess):
            return _report(tried[-1].guess, leak, [_how_it_ends(tried[-1]), *passed])
        return self._best(observation, leak, tried, passed, generator, counted)

    def _attempt(
        self, observation: Observation, generator: torch.Generator, counted: Numbered, *, undoing: bool
    ) -> tuple[list[_Tried], list[str], bool]:
        """Return the guesses up to the first exact guess, the failures of other attacks, and whether any attack ran."""
        attempts = _Attempts(observation, generator, counted)
        fitting = (
            (candidate.name, candidate.attack)
            for candidate in self._candidates(observation, attempts, undoing=undoing)
            if attempts.fits(candidate)
        )
        with time_limit(_FOR_SEARCHES * seconds_left()):
            for name, candidate, share in _with_shares(fitting):
                if not share:
                    attempts.leave_out(name)
                elif attempts.succeed(name, candidate, share):
                    return attempts.tried, attempts.passed, True
        return attempts.tried, attempts.passed, attempts.ran

    def _candidates(self, observation: Observation, attempts: _Attempts, *, undoing: bool) -> Iterator[Candidate]:
        """Yield the attacks in their order: either attacks that undo a change, or the others."""
        config = self.config
        for candidate in rank_candidates(
            observation, config.max_iterations, config.leave_out, inverts_augmentation=undoing
        ):
            attempts.note_failure(candidate)
            yield candidate

    def _continue_from_best(
        self,
        observation: Observation,
        best: _Tried,
        known: Container[str],
        generator: torch.Generator,
        counted: Numbered,
    ) -> list[_Tried]:
        """Return the results of attacks that continue from the best guess, up to the first exact result.

        Attacks also continue from the guess of a winner that itself continued.
        """
        attempts = _Attempts(observation, generator, counted)
        for candidate in self._candidates(observation, attempts, undoing=False):
            words = f"{candidate.name} from {best.name}"
            if not candidate.attack.accepts_initial_guess or words in known or not attempts.fits(candidate):
                continue
            way = partial(candidate.attack.continue_in_time, observation, best.guess, generator, counted)
            if attempts.ends_with(words, way):
                break
        return attempts.tried

    def _best(
        self,
        observation: Observation,
        leak: Leak,
        tried: list[_Tried],
        passed: list[str],
        generator: torch.Generator,
        counted: Numbered,
    ) -> Reconstruction:
        """Compare guesses by the gradient alone, and refine the best.

        All guesses get masks from equally long searches: a longer search would give better masks for any image.
        """
        if observation.local_steps > 1:
            return _lowest(tried, leak, passed)
        if observation.task.does_not_suit(GuessJudge.modalities):
            return _best_text(observation, leak, tried, passed)
        if observation.task.label_kind != "class":
            return _lowest(tried, leak, passed)
        labels = labels_of(observation)
        fitting = [attempt for attempt in tried if len(attempt.guess.inputs) <= len(labels)]
        if not fitting:
            return _lowest(tried, leak, passed)
        sizes = {attempt.name: len(attempt.guess.inputs) for attempt in tried if attempt not in fitting}
        passed += [f"{name} guessed {size} examples, not {len(labels)}" for name, size in sizes.items()]
        tried = fitting
        judge = GuessJudge(observation, labels, is_noisy=leak.is_noisy, iterations=self.config.mask_iterations)
        ordered = [order_guess(observation, attempt.guess, labels) for attempt in tried]
        judged = [judge.judge(guessed.inputs, None, generator) for guessed in ordered]
        ranking = sorted(range(len(tried)), key=lambda index: judged[index].distance)
        first = ranking[0]
        won, best, winners = ordered[first], judged[first], tried[first].name
        if won.masks is not None:
            best = min(best, judge.judge(won.inputs, won.masks, generator), key=_distance)
        if len(tried) > 1 and len(labels) > 1:
            union = judge.unite([ordered[index] for index in ranking], generator)
            united = judge.judge(union.batch.inputs, None, generator)
            if united.distance < best.distance:
                won, best = union.batch, united
                winners = " and ".join(tried[ranking[source]].name for source in union.sources)
        guess = _apply_fit(tried[first].guess, best, labels, won.are_found)
        known = {attempt.name for attempt in tried}
        begun = _Tried(winners, guess)
        continued = [] if leak.is_noisy else self._continue_from_best(observation, begun, known, generator, counted)
        if continued and _ends(observation, continued[-1].guess):
            return _report(continued[-1].guess, leak, [_how_it_ends(continued[-1]), *passed])
        for candidate in (attempt for attempt in continued if len(attempt.guess.inputs) <= len(labels)):
            reached = order_guess(observation, candidate.guess, labels)
            explained = judge.judge(reached.inputs, None, generator)
            tried, judged = [*tried, candidate], [*judged, explained]
            if explained.distance < best.distance:
                won, best, winners, guess = reached, explained, candidate.name, candidate.guess
        settled, refined = judge.settle(best, generator), judge.polish(best, generator)
        better = refined if refined.distance < settled.distance else settled
        scores = [
            f"{candidate.name}: distance {judgement.distance:.2e}"
            for candidate, judgement in zip(tried, judged, strict=True)
        ]
        refinement = "refined" if better is refined else "not refined: refining did not explain the gradient better"
        basis = f"on held-out tensors {', '.join(judge.held_out)}" if judge.held_out else "of the whole gradient"
        notes = [f"won: {winners}, {refinement}", f"distances are 1 - cosine {basis}", *scores, *passed]
        return _report(_apply_fit(guess, better, labels, won.are_found), leak, notes)


def _with_shares(candidates: Iterator[tuple[str, Attack[Any]]]) -> Iterator[tuple[str, Attack[Any], float]]:
    """Yield candidates with their CPU seconds, as a share of the time left when the candidate starts.

    An attack that ends by itself gets an equal share. Descents come last and use all their time: each gets half of the
    rest, the last descent all of it. Without a deadline the time is infinite, and candidates are checked lazily:
    whether a
    later attack applies is checked only after the earlier attacks have failed.
    """
    if math.isinf(seconds_left()):
        yield from ((*candidate, math.inf) for candidate in candidates)
        return
    guesses = list(candidates)
    for number, (name, candidate) in enumerate(guesses):
        left = len(guesses) - number
        yield name, candidate, seconds_left() / (min(2, left) if candidate.effort == "descent" else left)


def _ways(
    observation: Observation, name: str, candidate: Attack[Any], tried: Sequence[_Tried]
) -> Iterator[tuple[str, Way]]:
    """Yield the ways to run an attack: from each guess so far, if it can continue from guesses, and from scratch."""
    if candidate.accepts_initial_guess:
        for attempt in tried:
            yield f"{name} from {attempt.name}", partial(candidate.continue_in_time, observation, attempt.guess)
    yield name, partial(candidate.search_in_time, observation)


def _lowest(tried: list[_Tried], leak: Leak, passed: list[str]) -> Reconstruction:
    """Return the guess with the lowest objective of its own attack, for cases where gradients cannot be compared."""
    best = min(tried, key=lambda attempt: attempt.guess.objective)
    return _report(best.guess, leak, [f"won: {best.name}, of the lowest objective", *passed])


def _best_text(observation: Observation, leak: Leak, tried: list[_Tried], passed: list[str]) -> Reconstruction:
    """Return the guess with tokens that explain the gradient best, with the extras of all attacks."""
    distances = [_text_distance(observation, attempt.guess) for attempt in tried]
    first = min(range(len(tried)), key=distances.__getitem__)
    scores = [f"{attempt.name}: distance {distance:.2e}" for attempt, distance in zip(tried, distances, strict=True)]
    notes = [f"won: {tried[first].name}", "distances are 1 - cosine of the whole gradient", *scores, *passed]
    won = tried[first].guess
    read = {name: tensor for attempt in tried for name, tensor in attempt.guess.extras.items()}
    return _report(replace(won, objective=distances[first], extras={**read, **won.extras}), leak, notes)


def _text_distance(observation: Observation, guess: Reconstruction) -> float:
    """Return the gradient distance of tokens, with granted masks or the attack's own masks.

    Infinite if it cannot be computed: unknown labels, masks of another number of sentences, or rows longer than
    sentences, which hold words without an order.
    """
    if guess.inputs.shape[1] > observation.spec.shape[0]:
        return math.inf
    masks = guess.masks if observation.masks is None else observation.masks[0]
    misfits = len(guess.inputs) != (observation.batch_size or 1) and (bool(masks) or observation.labels is not None)
    if misfits or not explains(observation):
        return math.inf
    return complete(observation, guess.inputs, words_of(observation), masks or ()).distance


def _ends(observation: Observation, guess: Reconstruction) -> bool:
    """Return whether no further attack could explain the gradient better, or find better inputs."""
    return guess.is_exact or guess.has_exact_inputs or explains_mixtures(observation, guess)


def _how_it_ends(won: _Tried) -> str:
    if won.guess.has_exact_inputs and not won.guess.is_exact:
        return f"won: {won.name}, its equations hold only for these inputs; labels and masks are not proven"
    return f"won: {won.name}, which explains the gradient exactly"


def _distance(judged: FittedGuess) -> float:
    return judged.distance


def _apply_fit(guess: Reconstruction, judged: FittedGuess, labels: Tensor, are_found: Tensor) -> Reconstruction:
    return replace(
        guess,
        inputs=judged.inputs.to(guess.inputs)[are_found],
        masks=(judged.masks or None) if bool(are_found.all()) else None,
        labels=labels[are_found],
        objective=judged.distance,
    )


def _nothing(observation: Observation, passed: list[str]) -> Reconstruction:
    return no_guess(observation, "no attack that applies found anything", notes=tuple(passed))


def _report(guess: Reconstruction, leak: Leak, notes: list[str]) -> Reconstruction:
    return replace(guess, notes=(*notes, *guess.notes), diagnostics={**leak.facts(), **guess.diagnostics})
