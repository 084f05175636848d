"""Whatever is checked works."""

import torch
from torch import nn

from fedsim.audit import AuditPlan, subject
from fedsim.audit.inspecting import Inspector, updates
from fedsim.audit.record import KNOWS
from fedsim.audit.worlds import world_of
from fedsim.questions import Work


def test_rows_of_a_table_are_read_from_an_unchanged_model() -> None:
    torch.manual_seed(0)
    rows, labels = torch.randn(24, 6) * torch.tensor([1.0, 5.0, 1.0, 1.0, 0.1, 1.0]), torch.arange(24) % 2
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    own = subject.checked(subject.Subject(model, None, [(rows, labels)]), "rows")
    assert (own.task.noun, own.task.name, own.dataset.spec.shape) == ("row", "tabular", (6,))
    world = world_of(own, AuditPlan(target="rows"), 1)
    found = Inspector(KNOWS, lambda _said: None).inspect(world, updates(world), Work(), 1, 10, 30.0)
    assert found.value is not None
    assert found.value.value == 1.0
    assert found.victims[0].scores[0].values["number_error"] < 1e-3
