"""What a reader needs to run it again, as this process sees it."""

import platform
from importlib.metadata import version

import torch

from fedsim.record import environment as module
from fedsim.record.environment import environment


def test_versions_and_threads_are_those_of_this_process() -> None:
    own = environment("fedsim run s.toml")
    assert own.command == "fedsim run s.toml"
    assert own.versions["torch"] == version("torch")
    assert own.python == platform.python_version()
    assert own.torch_threads == torch.get_num_threads()
    assert own.cores >= 1
    assert own.processor


def test_without_a_checkout_there_is_no_commit(monkeypatch) -> None:
    monkeypatch.setattr(module, "_git", lambda *_: None)
    monkeypatch.setattr(module, "_PACKAGES", ("no-such-package",))
    own = environment("x")
    assert (own.git_commit, own.git_dirty) == (None, None)
    assert own.versions == {"no-such-package": "not installed"}
