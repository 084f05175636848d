"""Networks that other people wrote, none changed for fedsim, with real data, for `benchmarks.audit_verdicts`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedsim.audit import Subject

_TILES = 400
_CLASSES = 6  # two photographs, three parts of each from left to right


def photographs(side: int) -> DataLoader[Any]:
    """Return tiles of two photographs, pixels in [0, 1]; the class is the photograph and the part of it."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - an extra

    source = torch.Generator().manual_seed(0)
    tiles, labels = list[Tensor](), list[int]()
    pictures = [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    for number in range(_TILES):
        picture = pictures[number % 2]
        top, left = (int(torch.randint(size - side + 1, (), generator=source)) for size in picture.shape[1:])
        tiles.append(picture[:, top : top + side, left : left + side])
        labels.append(number % 2 * 3 + left * 3 // (picture.shape[2] - side + 1))
    return DataLoader(TensorDataset(torch.stack(tiles), torch.tensor(labels)), 32)


def resnet18() -> tuple[nn.Module, None, DataLoader[Any]]:
    """Torchvision's ResNet-18 with batch normalisation in training mode, 64 pixels a side."""
    from torchvision.models import resnet18 as published  # noqa: PLC0415 - takes seconds

    torch.manual_seed(0)
    return published(weights=None, num_classes=_CLASSES), None, photographs(64)


class Headed(nn.Module):
    """A detector's backbone under a linear classifier."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, shape (B, classes)."""
        return self.head(self.backbone(images)["pool"].mean((2, 3)))


def detector_backbone() -> tuple[nn.Module, None, DataLoader[Any]]:
    """The backbone of torchvision's Faster R-CNN on MobileNetV3 with its pyramid, 64 pixels a side."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn  # noqa: PLC0415

    torch.manual_seed(0)
    backbone: Any = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).backbone
    return Headed(backbone, backbone.out_channels), None, photographs(64)


def bert() -> tuple[nn.Module, None, DataLoader[Any]]:
    """A small BERT of transformers that tells sentences of news with a digit from others."""
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415 - an extra

    tokens, mask, vocabulary = _sentences()
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=256,
            max_position_embeddings=64,
        )
    )
    has_digit = ((tokens >= ord("0")) & (tokens <= ord("9"))).any(1).long()  # bytes are tokens of their own
    return model, None, _mappings(input_ids=tokens, attention_mask=mask, labels=has_digit)


def causal_lm() -> tuple[nn.Module, None, DataLoader[Any]]:
    """A small Llama of transformers that learns the next word of news."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - an extra

    tokens, mask, vocabulary = _sentences()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    )
    return model, None, _mappings(input_ids=tokens, attention_mask=mask)


def adam_lm() -> Subject:
    """The same Llama trained by Adam, which learns in an audit's few rounds."""
    model, loss, loader = causal_lm()
    return Subject(model, loss, loader, optimizer="adam", learning_rate=3e-3)


def table() -> tuple[nn.Module, None, DataLoader[Any]]:
    """A perceptron with dropout on the 30 numbers of a breast cancer record."""
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - an extra

    cancer: Any = load_breast_cancer()
    rows = torch.tensor((cancer.data - cancer.data.mean(0)) / cancer.data.std(0)).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 2))
    return model, None, DataLoader(TensorDataset(rows, torch.tensor(cancer.target)), 32)


def survey() -> Subject:
    """A perceptron that tells from 6,366 women's answers who had an affair; the risk of her occupations is compared."""
    from fedsim.data.affairs_survey import AffairsSurveyConfig, affairs_survey  # noqa: PLC0415 - an extra

    data = affairs_survey(AffairsSurveyConfig())
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(18, 64), nn.ReLU(), nn.Linear(64, 2))
    rows = [
        {"features": row, "labels": label, "occupation": int(row[6:12].argmax()) + 1}
        for row, label in zip(data.train.inputs, data.train.labels, strict=True)
    ]
    return Subject(model, None, DataLoader(rows, 32), group="occupation")  # pyright: ignore[reportArgumentType]


def _sentences() -> tuple[Tensor, Tensor, int]:
    """Return 400 sentences of news as tokens and where they are, both (400, 24), and how many tokens there are."""
    from fedsim.data import lee_news  # noqa: PLC0415 - an extra

    data = lee_news.lee_news(lee_news.LeeNewsConfig(length=24))
    tokens = data.train.inputs[:_TILES]
    return tokens, (tokens != data.spec.padding).long(), data.spec.vocabulary or 0


def _mappings(**columns: Tensor) -> DataLoader[Any]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return DataLoader(rows, batch_size=16)  # pyright: ignore[reportArgumentType]
