import pytest
import torch

from fedsim.metrics.bias_variance import bias_variance


def test_bias_and_variance_add_up_to_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(7, 40, 5, generator=generator, dtype=torch.float64).softmax(2)
    labels = torch.randint(5, (40,), generator=generator)
    found = bias_variance(predictions, labels)
    assert found.bias_squared + found.variance == pytest.approx(found.loss, rel=1e-12)
    truth = torch.eye(5, dtype=torch.float64)[labels]
    single = sum(float((q - truth).square().sum(1).mean()) for q in predictions) / 7
    assert found.loss == pytest.approx(single, rel=1e-12)


def test_equal_networks_have_no_variance_and_right_ones_no_bias() -> None:
    predictions = torch.rand(1, 10, 3).softmax(2).expand(4, 10, 3)
    assert bias_variance(predictions, torch.zeros(10, dtype=torch.long)).variance == pytest.approx(0.0, abs=1e-15)
    right = torch.eye(3)[torch.tensor([0, 2])].expand(2, 2, 3)
    assert bias_variance(right, torch.tensor([0, 2])) == (0.0, 0.0, 0.0)
    split = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert bias_variance(split, torch.tensor([0])) == (0.5, 0.5, 1.0)
