"""Quality of the Dropout Inversion Attack beside its two references, on real images.

Without ``--full``: 8 MNIST victims on the MLP at p = 0.25 (about a minute). With it: 4 CIFAR-10 victims on the
small vision transformer at p = 0.25 as well (about 30 minutes on one core).
"""

from __future__ import annotations

from pathlib import Path

from benchmarks._experiments import Budget, Cells, experiment
from benchmarks._rows import Row, median_row
from benchmarks._runs import arms_of
from fedsim.record import AttackFinding
from fedsim.scenario import load

SCENARIOS = Path(__file__).parent.parent / "scenarios"
MLP_MUST = {"DIA": 40.0, "WIIG": 45.0, "IG": -25.0, "closed form": 100.0}


def mlp_on_mnist(iterations: int = 3000, plateau_patience: int = 800) -> list[Row]:
    """Return the median PSNR of each attacker; the bounds are those of `MLP_MUST`."""
    overrides = [
        "threat.victims=8",
        'arms={"model.dropout"=[0.25]}',
        "federation.rounds=1",
        *(f"attacks.{index}.max_iterations={iterations}" for index in range(3)),
        *(f"attacks.{index}.plateau_patience={plateau_patience}" for index in range(3)),
    ]
    attacks = _run_attacks("17_noise_is_readable.toml", overrides)
    return [_row("MLP, MNIST, p = 0.25, B = 1", attack, MLP_MUST[attack.label]) for attack in attacks]


def transformer_on_cifar10() -> list[Row]:
    """Return the median PSNR of each attacker; DIA must lie above 25 dB and IG below 10."""
    overrides = [
        "threat.victims=4",
        'arms={"model.name"=["vit-small"],"model.dropout"=[0.25]}',
        "attacks.1.max_iterations=5000",
        "attacks.2.max_iterations=1500",  # after the 600 of the scenario it still rises
        *(f"attacks.{index}.priors.0.weight=1e-5" for index in range(3)),
        *(f"attacks.{index}.plateau_patience=800" for index in range(3)),
    ]
    attacks = _run_attacks("10_dropout_vs_inversion.toml", overrides)
    must = {"DIA": 25.0, "WIIG": 30.0, "IG": -10.0}
    return [_row("small ViT, CIFAR-10, p = 0.25, B = 1", attack, must[attack.label]) for attack in attacks]


@experiment("dropout-inversion", minutes=1, page="attacks/dropout-inversion")
def dropout_inversion(budget: Budget) -> Cells:
    """Return the cells of the short or the long version."""
    transformer = {"small ViT, CIFAR-10": transformer_on_cifar10} if budget.full else {}
    return {"MLP, MNIST": mlp_on_mnist, **transformer}


def _run_attacks(scenario: str, overrides: list[str]) -> tuple[AttackFinding, ...]:
    return arms_of(load(SCENARIOS / scenario, overrides))[0].attacks


def _row(setting: str, attack: AttackFinding, bound: float) -> Row:
    """`bound` is a lower bound in dB, or an upper one when it is negative."""
    psnr = [item.values["psnr"] for victim in attack.victims for item in victim.scores]
    must = f"> {bound:g}" if bound > 0 else f"< {-bound:g}"
    return median_row(f"PSNR, {attack.label}", setting, psnr, "dB", must)
