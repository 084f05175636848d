"""Do audits of one subject agree, whatever the seed? Prints what each seed says of subjects whose answer is known.

    python -m benchmarks.audit_seeds [--seeds 10]

Decided verdicts (kept or broken) must not contradict each other. About five minutes on one core.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from fedsim.core import process

process.prepare()

import argparse  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from fedsim.audit import AuditPlan, worlds  # noqa: E402
from fedsim.audit.inspecting import Inspector, updates  # noqa: E402
from fedsim.audit.record import KNOWS, AuditRecord  # noqa: E402
from fedsim.audit.subject import Checked, Subject, checked  # noqa: E402
from fedsim.audit.thresholds import of_client  # noqa: E402
from fedsim.core import seeding  # noqa: E402
from fedsim.record.environment import environment  # noqa: E402
from fedsim.record.policy import Policy  # noqa: E402

_LIMIT = 0.6  # share of recovered images: none of 3 keeps it, 6 of 6 break it
_UPDATES, _SECONDS, _ITERATIONS = 6, 20.0, 20


def subjects() -> Iterator[tuple[str, Checked]]:
    """Yield a client that leaks, two with noise that destroys or does not, and one whose search is too weak."""
    with seeding.isolate_randomness(0):
        dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))
        first = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Sigmoid(), nn.Conv2d(4, 4, 2), nn.Sigmoid())
        deep = nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    for name, model, scale in (("leaks", dense, 0.0), ("noise x 0.01", dense, 0.01), ("noise x 10", dense, 10.0)):
        yield name, _checked(model, scale)
    yield "weak search", _checked(deep, 0.0)


def _checked(model: nn.Module, scale: float) -> Checked:
    generator = torch.Generator().manual_seed(5)
    images = nn.functional.interpolate(torch.rand(40, 1, 4, 4, generator=generator), size=(8, 8), mode="bilinear")
    data = TensorDataset(images, torch.randint(4, (40,), generator=generator))
    noise = ({"name": "gradient-noise", "scale": scale, "relative": True},) if scale else ()
    return checked(Subject(model, nn.functional.cross_entropy, DataLoader(data, batch_size=8), defenses=noise), "seeds")


def judged(own: Checked, seed: int) -> str:
    """Return what an audit with a seed says of the limit."""
    plan = AuditPlan(target="seeds", seed=seed)
    world = worlds.world_of(own, plan, 1)
    inspector = Inspector(KNOWS, {}, lambda _said: None)
    found = inspector.inspect(world, updates(world), _UPDATES, _ITERATIONS, _SECONDS, "seeds")
    record = AuditRecord(
        plan=plan,
        policy=Policy(max_recognisable=_LIMIT),
        environment=environment(""),
        started="",
        inspections=(found,),
    )
    return next(of_client(record)).state


def main() -> None:
    """Print a row for each subject."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    print("| subject | kept | undecided | broken | contradict |\n|---|---|---|---|---|")
    for name, own in subjects():
        counts = Counter(judged(own, seed) for seed in range(seeds))
        contradict = "yes" if counts["kept"] and counts["broken"] else "no"
        print(f"| {name} | {counts['kept']} | {counts['undecided']} | {counts['broken']} | {contradict} |", flush=True)


if __name__ == "__main__":
    main()
