"""PRECODE stands in front of the last linear layer of any model."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from defenses.model.precode import LinearBottleneck, Precode, PrecodeConfig
from fedsim.core.types.effects import NoiseModules, UnreliableTensors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Named(nn.Module):
    """A model that is no sequence, with its head two levels down."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.heads = nn.ModuleDict({"own": nn.Linear(4, 5)})

    def forward(self, images: Tensor) -> Tensor:
        return self.heads["own"](torch.tanh(self.body(images)).mean((2, 3)))


@pytest.mark.paper_step("precode", "bottleneck in front of the last linear layer")
@pytest.mark.parametrize(
    ("model", "shape", "place", "kept"),
    [
        (lambda: nn.Linear(6, 3), (6,), "0", set[str]()),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), (6,), "3.0", {"1.weight"}),
        (Named, (1, 8, 8), "heads.own.0", {"body.weight", "body.bias"}),
        (lambda: torchvision.models.resnet18(num_classes=3), (3, 32, 32), "fc.0", {"conv1.weight"}),
    ],
)
def test_precode_stands_in_front_of_the_last_linear_layer(
    model: Callable[[], nn.Module], shape: tuple[int, ...], place: str, kept: set[str]
) -> None:
    defense = Precode(PrecodeConfig(latent=4))
    plain = model()
    before = plain(torch.ones(2, *shape)).shape
    prepared = defense.prepare(plain, generator())
    assert isinstance(prepared.get_submodule(place), LinearBottleneck)
    assert prepared(torch.ones(2, *shape)).shape == before
    names = [name for name, _ in prepared.named_parameters()]
    assert kept <= set(names)
    noise, _, unreliable = defense.adaptive_view().effects
    assert noise == NoiseModules((f"{place}.noise",))
    head = place.removesuffix("0") + "1"
    assert isinstance(unreliable, UnreliableTensors)
    assert set(unreliable.names) == {n for n in names if n.startswith((f"{place}.", f"{head}."))}
