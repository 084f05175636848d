"""Trainers of package transformers on small images."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, Trainer, TrainingArguments


class Net(nn.Module):
    """An image classifier as a Trainer wants it: it takes names, and returns loss and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 24), nn.Linear(24, 4)
        self.config = PreTrainedConfig()  # a Trainer with label smoothing reads it

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(torch.relu(self.first(pixel_values.flatten(1))))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def pictures(count: int = 24) -> list[dict[str, Any]]:
    source = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 1, 4, 4, generator=source)
    images = F.interpolate(coarse, size=(8, 8), mode="bilinear")
    labels = torch.randint(4, (count,), generator=source).tolist()
    return [{"pixel_values": image, "label": label} for image, label in zip(images, labels, strict=True)]


def trainer(folder: Path, model: Any = None, kind: Any = Trainer, data: Any = None, **more: Any) -> Any:
    torch.manual_seed(0)
    settings = {key: more.pop(key) for key in ("label_smoothing_factor", "optim", "learning_rate") if key in more}
    args = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to=[],
        per_device_train_batch_size=6,
        gradient_accumulation_steps=2,
        **settings,
    )
    return kind(model or Net(), args, train_dataset=pictures() if data is None else data, **more)
