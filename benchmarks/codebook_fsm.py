"""Codebook features on a finite-state machine: what they cost, whether codes name states, and whether they steer.

Two small transformers learn the same machine, one with a codebook behind every head and every MLP. Reported are the
share of valid transitions in sequences that each model writes; how precisely its best code, or its best single neuron
with its best threshold, tells that a state was just written (chosen on one half of fresh sequences, measured on the
other, among those that fire in at least a tenth of the state's visits; for codes also one digit later); and how often
the state that follows is a successor of b after the codes of b were forced at the last digit of a state a, and at the
digit behind it too.
"""

from __future__ import annotations

from fedsim.core import process

process.prepare()

from collections.abc import Iterator  # noqa: E402
from contextlib import ExitStack  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks._rows import Row, main, measured  # noqa: E402
from benchmarks._token_machine import BOUNDARY, Machine, Size, Transformer, machine, read_back, written  # noqa: E402
from fedsim.components.bottleneck.codebook import Codebook, CodebookConfig, force_codes, reading  # noqa: E402
from fedsim.core.layer_calls import layer_outputs  # noqa: E402

_LEAST_RECALL = 0.1
_SMALL = Size(layers=2, width=32, heads=4, positions=49)


@dataclass(frozen=True)
class Plan:
    """One experiment; `trials` interventions a state, `sequences` for counting and for sampling."""

    states: int = 30
    edges: int = 5
    size: Size = _SMALL
    codes: int = 200
    steps: int = 1500
    batch: int = 64
    sequences: int = 400
    trials: int = 40
    seed: int = 0

    @property
    def transitions(self) -> int:
        """Of a sequence that fills the positions."""
        return (self.size.positions - 1) // 2 - 1


@dataclass(frozen=True)
class Result:
    """Figures one a sampled sequence (accuracies), a state (precisions) or a state's interventions (steering)."""

    accuracy_plain: list[float]
    accuracy: list[float]
    precision_neurons: list[float]
    precision_codes: list[float]
    precision_behind: list[float]
    untouched: list[float]
    steered_once: list[float]
    steered: list[float]


def experiment(plan: Plan) -> Result:
    """Train both models, read and force codes."""
    source = torch.Generator().manual_seed(plan.seed)
    world = machine(plan.states, plan.edges, source)
    plain, quantised = trained(plan, world, with_codebooks=False), trained(plan, world, with_codebooks=True)
    walks = world.walks(2 * plan.sequences, plan.transitions, source)
    states = walks[:, 1:-1].flatten()
    codes, behind = fired(quantised, walks)
    steered = [steering(quantised, world, walks, codes, behind, plan, digits) for digits in (0, 1, 2)]
    return Result(
        accuracy_plain=validity(plain, world, plan, source),
        accuracy=validity(quantised, world, plan, source),
        precision_neurons=neuron_precisions(neurons(plain, walks), states, plan.states),
        precision_codes=code_precisions(codes, states, plan.states, plan.codes),
        precision_behind=code_precisions(behind, states, plan.states, plan.codes),
        untouched=steered[0],
        steered_once=steered[1],
        steered=steered[2],
    )


def trained(plan: Plan, world: Machine, *, with_codebooks: bool) -> Transformer:
    """Return a transformer that learned the machine's sequences."""
    torch.manual_seed(plan.seed)
    model = Transformer(plan.size)
    if with_codebooks:
        generator = torch.Generator().manual_seed(plan.seed)
        for kind, groups in (("heads", plan.size.heads), ("mlp", 1)):
            places = tuple(f"blocks.{block}.{kind}" for block in range(plan.size.layers))
            settings = CodebookConfig(at=places, codes=plan.codes, active=1, groups=groups, width=plan.size.width)
            Codebook(settings).prepare(model, generator)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.0)
    source = torch.Generator().manual_seed(plan.seed + 1)
    for _ in range(plan.steps):
        tokens = written(world.walks(plan.batch, plan.transitions, source))
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def validity(model: Transformer, world: Machine, plan: Plan, source: torch.Generator) -> list[float]:
    """Return the share of valid transitions of each sequence that the model writes."""
    first = torch.full((plan.sequences, 1), BOUNDARY)
    states = read_back(model.continued(first, plan.size.positions - 1, source))
    return is_valid(world, states[:, :-1], states[:, 1:]).double().mean(1).tolist()


def is_valid(world: Machine, before: Tensor, after: Tensor) -> Tensor:
    """Say of pairs of states whether the second may follow the first; a state that does not exist may not."""
    known = (before < world.states) & (after < world.states)
    last = world.states - 1
    return known & world.allowed[before.clamp_max(last), after.clamp_max(last)]


@torch.no_grad()
def fired(model: Transformer, walks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes at the last digit of every state but the first and last, and at the digit behind it.

    Both have shape (positions, codebooks).
    """
    with reading(model) as seen:
        model(written(walks))
    everywhere = torch.cat([one.flatten(2) for place in seen for one in seen[place]], -1)
    return everywhere[:, 4:-2:2].flatten(0, 1), everywhere[:, 5:-1:2].flatten(0, 1)


@torch.no_grad()
def neurons(model: Transformer, walks: Tensor) -> Tensor:
    """Return the hidden units of all MLPs at the last digit of every state but the first and last."""
    with layer_outputs(model, [f"blocks.{number}.mlp.2" for number in range(len(model.blocks))]) as seen:
        model(written(walks))
    return torch.cat([hidden for _, hidden in seen], -1)[:, 4:-2:2].flatten(0, 1)


def counts(codes: Tensor, concepts: Tensor, number: int, size: int) -> Tensor:
    """Return how often each code fired on each concept, shape (codebooks, size, number)."""
    table = torch.zeros(codes.shape[1], size * number)
    cells = codes.T * number + concepts
    return table.scatter_add(1, cells, torch.ones(cells.shape)).unflatten(1, (size, number))


def code_precisions(codes: Tensor, states: Tensor, number: int, size: int) -> list[float]:
    """Return P(state | code fires) on the second half, for the code of each state that was best on the first."""
    half = len(states) // 2
    chosen = usable_precision(counts(codes[:half], states[:half], number, size)).flatten(0, 1).argmax(0)
    fresh = counts(codes[half:], states[half:], number, size).flatten(0, 1)
    precision = fresh / fresh.sum(1, keepdim=True).clamp_min(1)
    return precision[chosen, torch.arange(number)].tolist()


def usable_precision(table: Tensor) -> Tensor:
    """Return P(concept | code fires) from `counts`, 0 where the code fires on too few of the concept's visits."""
    visits = table.sum(1, keepdim=True)
    precision = table / table.sum(-1, keepdim=True).clamp_min(1)
    return precision.where(table >= _LEAST_RECALL * visits.clamp_min(1), 0.0)


def neuron_precisions(activations: Tensor, states: Tensor, number: int) -> list[float]:
    """Return P(state | neuron above threshold) on the second half, for the best pair of each state on the first."""
    half = len(states) // 2
    is_state = F.one_hot(states, number)
    needed = _LEAST_RECALL * is_state[:half].sum(0)
    best, rule = torch.zeros(number), torch.zeros(number, 2)
    for neuron, values in enumerate(activations[:half].T):
        order = values.argsort(descending=True)
        hits = is_state[:half][order].cumsum(0)
        precision = (hits / torch.arange(1, half + 1)[:, None]).where(hits >= needed, 0.0)
        top, cut = precision.max(0)
        cuts = torch.stack((torch.full((number,), float(neuron)), values[order][cut]), 1)
        rule = torch.where((top > best)[:, None], cuts, rule)
        best = torch.maximum(best, top)
    fires = activations[half:, rule[:, 0].long()] >= rule[:, 1]
    return ((fires & is_state[half:].bool()).sum(0) / fires.sum(0).clamp_min(1)).tolist()


def steering(
    model: Transformer, world: Machine, walks: Tensor, codes: Tensor, behind: Tensor, plan: Plan, digits: int
) -> list[float]:
    """Return for each state b how often a successor of b follows when its codes are forced at so many digits."""
    source = torch.Generator().manual_seed(plan.seed + 2)
    states, number = walks[:, 1:-1].flatten(), plan.states
    of_state = usable_precision(counts(codes, states, number, plan.codes)).argmax(1)
    followers = states * 10 + walks[:, 2:].flatten() // 10
    of_pair = counts(behind, followers, 10 * number, plan.codes).argmax(1)
    shares: list[float] = []
    for b in range(number):
        starts = walks[walks[:, 3] != b][: plan.trials, :4]
        tokens = written(starts)
        last = tokens.shape[1] - 1
        with ExitStack() as held:
            if digits:
                _force(held, model, of_state[:, b], last)
            tokens = model.continued(tokens, 1, source)
            tokens = _second_digit(model, tokens, of_pair[:, 10 * b : 10 * b + 10], source, is_forced=digits > 1)
        shares.append(float(is_valid(world, torch.full((len(tokens),), b), read_back(tokens)[:, -1]).double().mean()))
    return shares


def _second_digit(
    model: Transformer, tokens: Tensor, codes: Tensor, source: torch.Generator, *, is_forced: bool
) -> Tensor:
    """Return tokens with one more; what is forced at the last one depends on it."""
    if not is_forced:
        return model.continued(tokens, 1, source)
    longer: list[Tensor] = []
    for digit in tokens[:, -1].unique().tolist():
        chosen = tokens[tokens[:, -1] == digit]
        with ExitStack() as held:
            if digit != BOUNDARY:
                _force(held, model, codes[:, digit], tokens.shape[1] - 1)
            longer.append(model.continued(chosen, 1, source))
    return torch.cat(longer)


def _force(held: ExitStack, model: Transformer, codes: Tensor, position: int) -> None:
    """Force one code of every codebook at one position."""
    for (place, group), code in zip(_codebooks(model), codes.tolist(), strict=True):
        held.enter_context(force_codes(model, place, [code], group=group, positions=slice(position, position + 1)))


def _codebooks(model: Transformer) -> Iterator[tuple[str, int]]:
    """Yield place and group in the order of `fired`."""
    with reading(model) as seen:
        model(torch.full((1, 2), BOUNDARY))
    for place, (codes,) in seen.items():
        yield from ((place, group) for group in range(codes.shape[-2]))


def measure(full: bool) -> list[Row]:
    """Return the rows; the long version repeats the experiment with two further seeds."""
    rows: list[Row] = []
    for seed in range(3 if full else 1):
        plan = Plan(seed=seed)
        results, chance = experiment(plan), plan.edges / plan.states
        setting = f"{plan.states} states, {plan.edges} edges, C = {plan.codes}, k = 1, seed {seed}"
        figures = (
            ("valid transitions, plain model", results.accuracy_plain, ""),
            ("valid transitions, with codebooks", results.accuracy, ""),
            ("precision of a state's best neuron", results.precision_neurons, ""),
            ("precision of a state's best code", results.precision_codes, f">= {_mean(results.precision_neurons):.4f}"),
            ("precision of a state's best code, one digit later", results.precision_behind, ""),
            ("successor of b, nothing forced", results.untouched, ""),
            ("successor of b, forced at one digit", results.steered_once, f"> {chance:.4f}"),
            ("successor of b, forced at both digits", results.steered, f"> {chance:.4f}"),
        )
        rows += [measured(name, setting, values, "share", must, _mean(values)) for name, values, must in figures]
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main(measure, __doc__ or "")
