"""A client that trains an adapter of peft: LoRA on the head, and the first layer whole."""

from digits import digits
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader


class Perceptron(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, shape (B, 10)."""
        return self.head(self.first(images.flatten(1)).relu())


def make_client() -> tuple[PeftModel, nn.Module, DataLoader]:
    """Return a client's model, loss and data loader."""
    config = LoraConfig(target_modules=["head"], modules_to_save=["first"], r=4)
    return get_peft_model(Perceptron(), config), nn.CrossEntropyLoss(), DataLoader(digits(), batch_size=16)
