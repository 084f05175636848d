import torch

from fedsim.metrics.denoising import test_denoising_loss as mean_loss


def test_it_is_the_mean() -> None:
    assert mean_loss(torch.tensor([1.0, 2.0, 6.0])) == 3.0
