import pytest
import torch
from torch import nn

from benchmarks._prefixes import best_prefix, features_and_head, prefix_accuracies, prefix_logits
from fedsim.core.errors import FedsimError


@pytest.mark.parametrize("bias", [False, True])
def test_one_pass_equals_as_many_masked_passes_as_there_are_features(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 4, bias=bias))
    inputs, labels = torch.randn(50, 6), torch.randint(4, (50,))
    features, head = features_and_head(model, inputs)
    assert model.training
    assert not any(layer._forward_hooks for layer in model)
    logits = list(prefix_logits(features, head.weight, head.bias))
    accuracies = prefix_accuracies(iter(logits), labels)
    for k in range(1, 21):
        masked = head(torch.cat([model[1](model[0](inputs))[:, :k], torch.zeros(50, 20 - k)], 1))
        assert torch.allclose(logits[k - 1], masked, atol=1e-5)
        assert float(accuracies[k - 1]) == pytest.approx(float((masked.argmax(1) == labels).double().mean()))


def test_ties_go_to_the_shorter_code() -> None:
    assert best_prefix(torch.full((9,), 0.7).double()) == 1
    assert best_prefix(torch.tensor([0.5, 0.9, 0.9 + 0.5e-5, 0.8]).double()) == 2
    assert best_prefix(torch.tensor([0.5, 0.9, 0.9 + 1.5e-5, 0.8]).double()) == 3


def test_a_model_that_does_not_end_in_a_linear_classifier_is_refused() -> None:
    for model in (nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Sequential(nn.Flatten())):
        with pytest.raises(FedsimError, match="does not end in one"):
            features_and_head(model, torch.zeros(2, 4))
