"""Models of other people, none changed for fedsim."""

import torch
import torchvision
from clients import images
from torch import Tensor, nn
from torch.utils.data import DataLoader

SMALL = {"shape": (3, 32, 32)}


def of_torchvision() -> tuple[nn.Module, nn.Module, DataLoader]:
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=4)
    return model, nn.CrossEntropyLoss(), DataLoader(images(24, **SMALL), batch_size=4)


def of_transformers() -> tuple[nn.Module, None, DataLoader]:
    """Return a vision transformer that answers with an object; its loader yields mappings."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
        num_channels=3,
        num_labels=4,
        hidden_dropout_prob=0.1,
    )
    data = [{"pixel_values": image, "labels": label} for image, label in images(24, shape=(3, 16, 16))]
    return ViTForImageClassification(config), None, DataLoader(data, batch_size=4)  # type: ignore[arg-type]


class Mixing(nn.Module):
    """A layer that no library has: every pixel sees its row through a learned, signed power."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.power = nn.Parameter(torch.tensor(1.2))

    def forward(self, inputs: Tensor) -> Tensor:
        mixed = inputs @ self.weight
        return mixed.sign() * (mixed.abs() + 1e-3) ** self.power


def squared_margins(scores: Tensor, labels: Tensor) -> Tensor:
    """Return a loss that a project wrote for itself: squared margins to the right class."""
    right = scores.gather(1, labels[:, None])
    return (1.0 - right + scores).clamp_min(0.0).square().mean()


def with_a_custom_layer() -> tuple[nn.Module, object, DataLoader]:
    """Return a model with a layer and a loss of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(Mixing(8), nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 4))
    return model, squared_margins, DataLoader(images(24), batch_size=4)


def with_a_loss_of_one_derivative() -> tuple[nn.Module, object, DataLoader]:
    """Return the same model with a loss whose gradient cannot be differentiated again."""
    model, _, loader = with_a_custom_layer()
    return model, nn.MultiMarginLoss(), loader


def texts(count: int, vocabulary: int = 50, length: int = 6) -> list[dict[str, Tensor]]:
    """Return texts as a collator of transformers makes them, each of its own length."""
    generator = torch.Generator().manual_seed(4)
    rows = list[dict[str, Tensor]]()
    for number in range(count):
        tokens = torch.randint(3, vocabulary, (length,), generator=generator)
        mask = (torch.arange(length) < length - number % 3).long()
        rows.append({"input_ids": tokens * mask, "attention_mask": mask, "labels": torch.tensor(number % 2)})
    return rows


def bert() -> tuple[nn.Module, None, DataLoader]:
    """Return a classifier of transformers with a loader of dicts."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    return BertForSequenceClassification(config), None, DataLoader(texts(24), batch_size=4)  # type: ignore[arg-type]


def gpt() -> tuple[nn.Module, None, DataLoader]:
    """Return a causal language model of transformers, whose labels are its tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=24, n_layer=1, n_head=2, n_positions=16)
    rows = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in texts(24)]
    return GPT2LMHeadModel(config), None, DataLoader(rows, batch_size=4)  # type: ignore[arg-type]


def encoder() -> tuple[nn.Module, None, DataLoader]:
    """Return a deeper classifier of transformers that does not drop out."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, num_labels=2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.05,
    )  # fmt: skip
    return BertForSequenceClassification(config), None, DataLoader(texts(24), batch_size=4)  # type: ignore[arg-type]
