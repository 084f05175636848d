"""A Trainer of transformers with a small vision transformer."""

from tempfile import mkdtemp
from typing import Any

from digits import digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification


def make_trainer() -> Trainer:
    """Return the trainer as it would be run."""
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
        hidden_dropout_prob=0.0,
    )
    data: list[dict[str, Any]] = [{"pixel_values": image, "label": int(label)} for image, label in digits()]
    arguments = TrainingArguments(mkdtemp(), use_cpu=True, report_to=[], per_device_train_batch_size=8)
    return Trainer(ViTForImageClassification(config), arguments, train_dataset=data)
