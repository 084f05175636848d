"""What a translator leaves out, against masks by hand; hidden layers have no influence; layers are told apart."""

import pytest
import torch
from torch import Tensor

from fedsim.components.probe._translator import Translator, draw_kept, pool
from fedsim.core.errors import FedsimError


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def translator(channels: tuple[int, ...] = (3, 3)) -> Translator:
    return Translator(channels, 5, (8, 2, 2), 4, source())


def vectors(rows: int = 6) -> list[Tensor]:
    return [torch.randn(rows, 3, generator=source(own)) for own in (1, 2)]


def shown(*layers: bool, rows: int = 6) -> Tensor:
    return torch.tensor([layers] * rows)


def test_places_that_are_kept_are_averaged_and_not_rescaled() -> None:
    features = torch.randn(4, 3, 2, 5, generator=source())
    kept = draw_kept(4, 10, 0.5, source(3))
    by_hand = torch.stack([feature.flatten(1)[:, mask].mean(1) for feature, mask in zip(features, kept, strict=True)])
    torch.testing.assert_close(pool(features, kept), by_hand)
    torch.testing.assert_close(pool(features), features.mean((2, 3)))
    torch.testing.assert_close(pool(features, torch.ones(4, 10, dtype=torch.bool)), pool(features))


def test_the_mean_over_masks_is_the_mean_over_places() -> None:
    features = torch.randn(1, 1, 3, 3, generator=source())
    draws = pool(features.expand(4_000, -1, -1, -1), draw_kept(4_000, 9, 0.5, source(5)))
    error = (draws.mean() - features.mean()) / (draws.std() / 4_000**0.5)
    assert abs(error.item()) < 3  # standard errors


@pytest.mark.paper_step("devil", "pooled features of any layers to a prompt")
def test_a_hidden_layer_has_no_influence() -> None:
    model, (first, second) = translator(), vectors()
    second.requires_grad = True
    model([first, second], shown(True, False)).square().sum().backward()
    assert second.grad is not None
    assert not second.grad.any()
    model([first, second], shown(True, True)).square().sum().backward()
    assert second.grad.any()


def test_channels_are_scaled() -> None:
    model, features = translator(), [5 + 3 * torch.randn(7, 3, 2, 2, generator=source(own)) for own in (1, 2)]
    features[1][:, 0] = 4.0
    model.fit_scales(features)
    for number, feature in enumerate(features):
        scaled = (feature.transpose(1, 3) - model.get_buffer(f"mean{number}")) / model.get_buffer(f"scale{number}")
        torch.testing.assert_close(scaled.mean((0, 1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
        sizes = scaled.flatten(0, 2).std(0, correction=0)
        torch.testing.assert_close(sizes, torch.tensor([float(not number), 1, 1]), atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_weights_and_heads_must_divide_the_width() -> None:
    own, other = translator().state_dict(), translator().state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)
    with pytest.raises(FedsimError, match="width 8 is no multiple of 3 heads"):
        Translator((3,), 5, (8, 1, 3), 4, source())
