"""When tensors are changed, and rounding that is right on average."""

import pytest
import torch
from torch import Tensor

from defenses.core.tensors import TensorConfig, TensorDefense, stochastically_rounded
from fedsim.core.hooks import HookContext
from fedsim.core.types import MethodDescription, Tensors, Update
from tests.defenses.stepping import here


class Doubled(TensorDefense[TensorConfig]):
    def change(self, tensors: Tensors, here: HookContext) -> Tensors:
        return {name: 2 * tensor for name, tensor in tensors.items()}

    def adaptive_view(self) -> MethodDescription:
        return MethodDescription("doubled")


def test_tensors_are_changed_in_every_step_or_once_in_the_upload() -> None:
    gradient: dict[str, Tensor] = {"w": torch.ones(3)}
    update = Update("delta", gradient, {}, 7, 0.5)
    step, upload = (Doubled(TensorConfig(applies=own)) for own in ("per_step", "per_update"))
    assert step.on_gradient(gradient, here())["w"].tolist() == [2.0] * 3
    assert step.on_upload(update, here()) is update
    assert upload.on_gradient(gradient, here()) is gradient
    sent = upload.on_upload(update, here())
    assert sent.tensors["w"].tolist() == [2.0] * 3
    assert (sent.examples, sent.loss) == (7, 0.5)


@pytest.mark.parametrize("value", [-1.75, -0.5, 0.0, 0.2, 3.0])
def test_values_go_to_a_neighbour_so_that_their_mean_is_right(value: float) -> None:
    draws = 20_000
    found = stochastically_rounded(torch.full((draws,), value), torch.Generator().manual_seed(0))
    below = torch.tensor(value).floor()
    assert set(found.tolist()) <= {float(below), float(below) + 1.0}
    error = 4 * (0.25 / draws) ** 0.5  # four standard errors of the most uncertain coin
    assert float(found.mean()) == pytest.approx(value, abs=error)
    assert value != 3.0 or bool((found == 3.0).all())
