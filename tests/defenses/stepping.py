"""A local step of a small model, for defenses that look into it, and for those that only see tensors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.core import registry
from fedsim.core.hooks import Defense, HookContext, LocalStep, PublicFederation
from fedsim.core.types import Batch, Tensors, Update


class Small(nn.Module):
    """Two linear layers with a number between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.last = nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.scale * self.first(inputs.flatten(1))))


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Small()


def local_step(model: nn.Module | None = None, examples: int = 3, shape: tuple[int, ...] = (1, 2, 3)) -> LocalStep:
    """A step of the small model, or of another one with 4 classes."""
    model = small() if model is None else model
    numbers = torch.Generator().manual_seed(5)
    batch = Batch(
        torch.randn(examples, *shape, generator=numbers), torch.randint(4, (examples,), generator=numbers)
    )  # fmt: skip
    return LocalStep(model, dict(model.named_parameters()), batch, float(examples))


def gradient(local: LocalStep | None = None) -> Tensors:
    """The gradient of a step."""
    local = local_step() if local is None else local
    loss = F.cross_entropy(local.model(local.batch.inputs), local.batch.labels)
    return dict(zip(local.parameters, torch.autograd.grad(loss, list(local.parameters.values())), strict=True))


def here(seed: int = 0, step: int = 0, local: LocalStep | None = None) -> HookContext:
    return HookContext(1, 0, step, torch.Generator().manual_seed(seed), local=local)


def rules(**changes: Any) -> PublicFederation:
    plain: dict[str, Any] = {
        "algorithm": "fedsgd", "rounds": 1, "steps": 1, "batch_size": 3, "examples": 10, "sampling": "shuffle",
        "clients": 4, "cohort": 4.0, "cohort_sampling": "fixed", "loss_terms": (), "hides_updates": False,
        "most_examples": 10, "shape": (1, 2, 3), "classes": 4, "batch_readers": (), "smallest_sum": 1,
        "quantisation": None,
    }  # fmt: skip
    return PublicFederation(**{**plain, **changes})


def make(name: str, **settings: Any) -> Defense[Any]:
    method = registry.get("defense", name)
    return method.make(method.config.model_validate(settings))


def uploaded(defense: Defense[Any], tensors: Tensors, at: HookContext) -> Tensors:
    return defense.on_upload(Update("delta", tensors, {}, 1, 0.0), at).tensors
