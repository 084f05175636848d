"""Guesses of audits, scored: an attack may guess fewer examples than the update holds."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import Plan, worlds
from fedsim.audit.inspecting import Inspector, updates
from fedsim.audit.subject import Subject, checked
from fedsim.core.types import Reconstruction


def test_an_example_without_a_guess_is_missing_and_the_update_still_counts() -> None:
    generator = torch.Generator().manual_seed(2)
    examples = TensorDataset(torch.rand(8, 1, 4, 4, generator=generator), torch.arange(8) % 2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    subject = checked(Subject(model, nn.functional.cross_entropy, DataLoader(examples, batch_size=2)), "test")
    world = worlds.world_of(subject, Plan(target="test", batches=(2,), minutes=1.0), 2)
    seen = next(updates(world))
    true = seen.truth.private[0]
    found = Reconstruction(true.inputs[1:], true.labels[1:], None, 0.0, 1, 1, (), "done")
    inspector = Inspector((), {}, lambda _said: None)
    victim = inspector._recorded(world, seen, found, "batch-2/1")
    assert [item.is_missing for item in victim.scores] == [True, False]
    assert [item.values["psnr"] for item in victim.scores] == [0.0, 160.0]
    assert victim.values == {"label_accuracy": 0.5}
    assert inspector._summary(world, [victim]).success.value == 0.5
    assert inspector.arrays["batch-2/1/guesses"].shape == (2, 1, 4, 4)
