"""Clients with tasks other than single-label classification; none of them imports fedsim."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset, TensorDataset

Loss = Callable[..., Tensor]
Client = tuple[nn.Module, Loss, DataLoader]


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """Return two dense layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


def loader(inputs: Tensor, labels: Tensor) -> DataLoader:
    """Return batches of pairs."""
    return DataLoader(TensorDataset(inputs, labels), batch_size=32)


def digits() -> tuple[Tensor, Tensor]:
    """Return 400 pictures (1, 8, 8) in [0, 1], and their numbers."""
    known = load_digits()
    return torch.tensor(known.images[:400] / 16.0, dtype=torch.float32)[:, None], torch.tensor(known.target[:400])


def make_regression() -> Client:
    """Return a client that foretells how far a patient's diabetes gets, with Huber's loss."""
    rows, progress = load_diabetes(return_X_y=True)
    inputs, targets = torch.tensor(20 * rows).float(), torch.tensor(progress / 100).float()[:, None]
    return dense(10, 1), nn.HuberLoss(delta=4.0), loader(inputs, targets)


def make_multi_label() -> Client:
    """Return a client that says whether a digit is even, is prime, and is above four."""
    pictures, numbers = digits()
    is_prime = torch.isin(numbers, torch.tensor([2, 3, 5, 7]))
    traits = torch.stack([numbers % 2 == 0, is_prime, numbers > 4], 1)  # noqa: PLR2004 - above four
    return dense(64, 3), nn.BCEWithLogitsLoss(), loader(pictures, traits.float())


def make_segmentation() -> Client:
    """Return a client that says for every pixel whether it is ink."""
    pictures, _ = digits()
    model = nn.Sequential(dense(64, 128), nn.Unflatten(1, (2, 8, 8)))
    return model, nn.CrossEntropyLoss(), loader(pictures, (pictures[:, 0] > 0.5).long())  # noqa: PLR2004 - half black


def make_series() -> Client:
    """Return a client that foretells two steps from 24 of two variables."""
    times = torch.arange(26) * 2 * math.pi / 12
    phases = torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    values = (times[None, :, None] + phases[:, None]).sin()
    return dense(48, 2), nn.MSELoss(), loader(values[:, :24], values[:, 24:, 0])


class Heads(nn.Module):
    """A shared body with a head for each output."""

    def __init__(self, **outputs: int | tuple[int, ...]) -> None:
        """Build a head for each output shape."""
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.heads = nn.ModuleDict(
            {
                name: nn.Linear(64, shape)
                if isinstance(shape, int)
                else nn.Sequential(nn.Linear(64, math.prod(shape)), nn.Unflatten(1, shape))
                for name, shape in outputs.items()
            }
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the heads, by name."""
        features = self.body(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def named(pictures: Tensor, labels: dict[str, Tensor]) -> DataLoader:
    """Return batches of pictures with labels by name."""
    return DataLoader(StackDataset(pictures, StackDataset(**labels)), batch_size=32)


def make_heads() -> Client:
    """Return a client with three heads: the digit, whether it is even or above four, and how much ink it has."""
    pictures, numbers = digits()
    traits = torch.stack([numbers % 2 == 0, numbers > 4], 1).float()  # noqa: PLR2004 - above four
    labels = {"number": numbers, "traits": traits, "ink": pictures.mean((1, 2, 3))[:, None]}
    return Heads(number=10, traits=2, ink=1), loss_of_heads, named(pictures, labels)


def loss_of_heads(outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Return the sum of three losses."""
    return (
        F.cross_entropy(outputs["number"], labels["number"])
        + F.binary_cross_entropy_with_logits(outputs["traits"], labels["traits"])
        + F.mse_loss(outputs["ink"], labels["ink"])
    )


class Recurrent(nn.Module):
    """A layer over the times of a window, and a number for its last state."""

    def __init__(self) -> None:
        """Draw the first weights."""
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.GRU(2, 64, batch_first=True), nn.Linear(64, 2)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the next values of the windows."""
        return self.head(self.layer(windows)[0][:, -1])


def make_recurrent() -> Client:
    """Return a client that foretells two steps from eight of two variables, by a GRU."""
    _, loss, batches = make_series()
    inputs, following = batches.dataset.tensors
    return Recurrent(), loss, loader(inputs[:, -8:], following)


def make_detector() -> Client:
    """Return a client that detects a digit on a canvas of 4 x 4 cells: the cell with its corner, and its box."""
    pictures, _ = digits()
    source = torch.Generator().manual_seed(1)
    corners = torch.randint(4, (len(pictures), 2), generator=source)
    small = F.avg_pool2d(pictures, 2)
    canvas, is_there, boxes = (
        torch.zeros(len(pictures), 1, 8, 8),
        torch.zeros(len(pictures), 1, 4, 4),
        torch.zeros(len(pictures), 4, 4, 4),
    )
    for number, (row, column) in enumerate(corners.tolist()):
        canvas[number, 0, row : row + 4, column : column + 4] = small[number, 0]
        is_there[number, 0, row // 2, column // 2] = 1.0
        boxes[number, :, row // 2, column // 2] = torch.tensor([row, column, row + 4, column + 4]) / 8
    model = Heads(is_there=(1, 4, 4), boxes=(4, 4, 4))
    return model, loss_of_boxes, named(canvas, {"is_there": is_there, "boxes": boxes})


def loss_of_boxes(outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Return the loss: cross-entropy of the presence of a digit plus squared error of the boxes."""
    return F.binary_cross_entropy_with_logits(outputs["is_there"], labels["is_there"]) + F.mse_loss(
        outputs["boxes"], labels["boxes"]
    )


def make_volumes() -> Client:
    """Return a client that classifies by conv3d whether the sum of two stacked digits is above 9."""
    pictures, numbers = digits()
    volumes, sums = pictures.view(200, 1, 2, 8, 8), numbers.view(200, 2).sum(1)
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.Tanh(), nn.Conv3d(8, 8, 3, padding=1), nn.Tanh())
    model = nn.Sequential(body, nn.AdaptiveAvgPool3d((2, 4, 4)), nn.Flatten(), nn.Linear(256, 2))
    return model, nn.CrossEntropyLoss(), loader(volumes, (sums > 9).long())  # noqa: PLR2004 - about half


def make_volume_masks() -> Client:
    """Return a client that says for every place of such a volume whether it is ink, by dense layers."""
    volumes = digits()[0].view(200, 1, 2, 8, 8)
    model = nn.Sequential(dense(128, 256), nn.Unflatten(1, (2, 2, 8, 8)))
    return model, nn.CrossEntropyLoss(), loader(volumes, (volumes[:, 0] > 0.5).long())  # noqa: PLR2004 - half black
