"""Overviews of small clients: what applies, what does not, and what would change it."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from fedsim.applicability.subjects import overview_of_subject
from fedsim.audit.record import KNOWS
from fedsim.audit.subject import Subject
from fedsim.core.errors import FedsimError


def subject(rate: float = 0.5) -> Subject:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Dropout(rate), nn.Linear(32, 10))
    images = torch.rand(16, 1, 8, 8, generator=generator)
    return Subject(model, nn.functional.cross_entropy, [(images, torch.arange(16) % 10)])


def test_a_batch_is_separated_and_each_refusal_names_the_change_that_helps() -> None:
    found = overview_of_subject(subject(), "client", 4, KNOWS)
    assert found.sentence.endswith("expect exact images from sparse-dictionary within a second.")
    refused = {row.name: row for row in found.refused}
    assert refused["closed-form-linear"].applies_with == ("a batch of 1",)
    assert refused["span-intersection"].applies_with == ("dropout off",)
    assert refused["trap-weights"].applies_with == ("a malicious server",)
    assert refused["closed-form-vit"].applies_with == ()
    assert "cpl" in found.never_tried


def test_a_grant_that_is_missing_is_named() -> None:
    found = overview_of_subject(subject(0.0), "client", 1, ())
    rows = {row.name: row for row in (*found.applicable, *found.refused)}
    assert not rows["closed-form-linear"].refusal
    assert rows["fedavg-inversion"].applies_with == ("batch-size granted",)


class Lstm(nn.Module):
    """Classifier of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm, self.head = nn.Embedding(50, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.table(tokens))[0][:, -1])


def test_words_are_read_from_the_embedding_of_an_lstm() -> None:
    pairs = [(torch.randint(50, (8, 6)), torch.arange(8) % 2)]
    found = overview_of_subject(Subject(Lstm(), nn.functional.cross_entropy, pairs), "client", 1, KNOWS)
    assert found.applicable[0].name == "word-readout"
    assert found.sentence.endswith("estimates of sentences at best.")


def test_no_exact_image_is_expected_behind_a_head_of_zeros() -> None:
    # torchvision begins with such a head: no gradient reaches the layers before it
    network = VisionTransformer(16, 8, 1, 2, 32, 32, num_classes=10)
    images = torch.rand(8, 3, 16, 16)
    client = Subject(network, nn.functional.cross_entropy, [(images, torch.arange(8))])
    found = [overview_of_subject(client, "client", 1, KNOWS)]
    nn.init.normal_(network.get_parameter("heads.head.weight"), std=0.1)
    found.append(overview_of_subject(client, "client", 1, KNOWS))
    blind, trained = ({row.name: row.refusal for row in (*one.applicable, *one.refused)} for one in found)
    assert "330 equations for 768 unknowns" in blind["gauss-newton"]
    assert not trained["gauss-newton"]
    assert found[0].sentence.endswith("estimates of images at best.")


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(FedsimError, match="--batch is 9, but the loader of 'client' yields 8 examples"):
        overview_of_subject(subject(), "client", 9, KNOWS)
