"""Networks cut into stages."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from attacks.second_order._residual_chain import Chain, chain_of
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import disable_dropout
from tests.attacks.second_order.residual import group, residual
from tests.attacks.second_order.solved import toy


def features(chain: Chain, images: Tensor) -> Tensor:
    for stage in chain.stages:
        images = stage.close(stage.apply(stage.weights(), images))
    return images.flatten(1)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU])
@pytest.mark.parametrize("norm", [group, nn.BatchNorm2d])
def test_the_stages_one_behind_the_other_are_what_the_head_reads(activation: type, norm: type) -> None:
    observation, truth = toy(residual(4, 4, 8, activation=activation, norm=norm, rate=0.5), (1, 8, 8), 2, classes=10)
    chain = chain_of(observation)
    images = truth.batches[0].inputs
    head = observation.model.get_submodule(chain.head)
    with disable_dropout():
        expected = observation.model(images)
    torch.testing.assert_close(head(features(chain, images)), expected)
    assert [stage.name for stage in chain.stages] == ["0", "3.first", "4.first", "5.first"]
    assert [stage.is_gated for stage in chain.stages] == [activation is nn.ReLU] * 3 + [False]


def test_the_layout_of_torchvision_is_cut_at_its_blocks() -> None:
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [2, 1, 1, 1], num_classes=10, norm_layer=group)
    observation, truth = toy(model, (3, 32, 32), 1, classes=10)
    chain = chain_of(observation)
    blocks = ["layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer4.0"]
    assert [stage.name for stage in chain.stages] == ["conv1", *(f"{block}.conv1" for block in blocks)]
    images = truth.batches[0].inputs
    torch.testing.assert_close(
        observation.model.get_submodule("fc")(features(chain, images)), observation.model(images)
    )
    named = {name for stage in chain.stages for name in stage.names}
    assert named | {"fc.weight", "fc.bias"} == observation.update.tensors.keys()


class Functional(nn.Module):
    """A residual network whose activations, pooling and dropout are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, 1, 1), nn.GroupNorm(2, 4)
        self.body, self.behind = nn.Conv2d(4, 4, 3, 1, 1), nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm(self.stem(images)), inplace=True)
        hidden = F.relu(hidden + self.behind(self.body(hidden)))
        pooled = F.avg_pool2d(hidden, 8)
        return self.head(F.dropout(pooled.view(pooled.size(0), -1), 0.5, self.training))


def test_a_network_of_functions_is_cut_too() -> None:
    observation, truth = toy(Functional(), (1, 8, 8), 1, classes=10)
    chain = chain_of(observation)
    assert [(stage.name, stage.is_gated) for stage in chain.stages] == [("stem", True), ("body", False)]
    outputs = observation.model.eval()(truth.batches[0].inputs)
    torch.testing.assert_close(
        observation.model.get_submodule("head")(features(chain, truth.batches[0].inputs)), outputs
    )


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.body(images.flatten(1))
        return self.head(hidden) if hidden.sum() > 0 else self.head(-hidden)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, 10)), "no chain of residual blocks"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)), "are not the model's"),
        (nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), "no last linear layer"),
        (Undecided(), "cannot be traced"),
    ],
)
def test_other_networks_are_refused(model: nn.Module, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        chain_of(toy(model, (1, 8, 8), 1, classes=10)[0])
