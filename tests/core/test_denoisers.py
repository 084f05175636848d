"""A trained denoiser is kept in a folder, and found by its name."""

from pathlib import Path

import pytest
import torch

from fedsim.core.denoisers import find_denoiser, load_denoiser, save_denoiser
from fedsim.core.errors import FedsimError
from fedsim.models.edm_unet import EdmUnetConfig, edm_unet
from tests.models.sizes import images, spec

SETTINGS = {"width": 8, "blocks": 1, "classes": True}


def test_what_is_read_back_answers_alike(tmp_path: Path) -> None:
    model = edm_unet(EdmUnetConfig.model_validate(SETTINGS), spec(1, 8, 8)).eval()
    save_denoiser(model, SETTINGS, spec(1, 8, 8), tmp_path)
    found = load_denoiser(tmp_path)
    assert found.spec == spec(1, 8, 8)
    x, noise = images(2, 1, 8, 8), torch.ones(2)
    assert torch.equal(found.model(x, noise), model(x, noise))


def test_names_are_looked_up_in_the_cache_and_strangers_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))
    with pytest.raises(FedsimError, match=r"no trained denoiser 'small'.*`fedsim bench model small` trains it"):
        find_denoiser("small", ("small", "large"))
    with pytest.raises(
        FedsimError, match=r"'../smal'.*`fedsim bench model NAME` trains a denoiser. Did you mean 'small'"
    ):
        find_denoiser("../smal", ("small", "large"))
    folder = tmp_path / "small-1a2b3c4d"
    model = edm_unet(EdmUnetConfig.model_validate(SETTINGS), spec(1, 8, 8))
    for own in (folder, tmp_path / "small-draft-1a2b3c4d"):
        own.mkdir()
        save_denoiser(model, SETTINGS, spec(1, 8, 8), own)
    assert find_denoiser("small", ()) == find_denoiser(str(folder), ()) == folder
    with pytest.raises(FedsimError, match=r"holds no trained denoiser.*folder that `fedsim bench model` names"):
        load_denoiser(tmp_path)
