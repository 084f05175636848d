"""Windows and what follows them."""

import torch

from fedsim.data.made_series import MadeSeriesConfig, made_series


def test_the_seed_decides_all() -> None:
    first, again = (made_series(MadeSeriesConfig(windows=20)) for _ in range(2))
    other = made_series(MadeSeriesConfig(windows=20, seed=1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert (first.train.inputs.shape, first.train.labels.shape) == ((16, 24, 1), (16, 4))
    assert (len(first.test), first.spec.shape, first.spec.classes, first.task) == (4, (24, 1), 4, "series")


def test_what_follows_goes_on_from_the_window() -> None:
    data = made_series(MadeSeriesConfig(windows=400, horizon=1))
    last, following = data.train.inputs[:, -1, 0], data.train.labels[:, 0]
    assert float(torch.corrcoef(torch.stack([last, following]))[0, 1]) > 0.5  # one step of periods of 12 and 5


def test_zero_and_one_are_the_extremes_of_each_time() -> None:
    data = made_series(MadeSeriesConfig(windows=50))
    mean, std = (torch.tensor(values)[:, None] for values in (data.spec.mean, data.spec.std))
    plain = data.train.inputs * std + mean
    torch.testing.assert_close(plain.amin(0), torch.zeros(24, 1), atol=1e-5, rtol=0)  # single precision
    torch.testing.assert_close(plain.amax(0), torch.ones(24, 1), atol=1e-5, rtol=0)
