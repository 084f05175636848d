"""Noise of a real node from torch's generator, as it would be without ChaCha20."""

import pytest
import torch

from fedsim.privacy.noise_recovery.torch_state import fresh_generator


def replace_secure_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the noise of mods and guards from torch's generator, with a state from the operating system."""
    generator = fresh_generator()
    monkeypatch.setattr(
        "fedsim.privacy.discrete_noise.add_discrete",
        lambda tensor, deviation: tensor + deviation * torch.empty(tensor.shape).normal_(generator=generator),
    )
