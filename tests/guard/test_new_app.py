"""The app of `fedsim guard template`, built and run under the guard and the policy that are written with it."""

from __future__ import annotations

import hashlib
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, Metadata, RecordDict
from flwr.cli.build import build_fab_from_disk
from torch import nn

from fedsim.core.errors import FedsimError
from fedsim.guard.new_app import write_app
from fedsim.guard.policy import read_policy
from fedsim.guard.private_reply import ReplyPrivatizer
from fedsim.guard.running import AppProcesses, AppTask
from fedsim.privacy.ledger import Ledger
from tests.guard import site

ISOLATION = "sandbox" if site.has_walls() else "none"
CONFIG: dict[str, Any] = {"local-epochs": 1, "learning-rate": 0.1}


def built(folder: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a package that Flower uses
        return build_fab_from_disk(folder)


def asking(category: str, weights: dict[str, torch.Tensor]) -> Message:
    metadata = Metadata(5, category, 1, 7, "", "3", time.time(), 3600.0, category)
    content = RecordDict({"arrays": ArrayRecord(weights)})
    return Message(content, metadata=metadata)  # pyright: ignore[reportCallIssue]


def test_the_app_trains_and_evaluates_under_its_policy(tmp_path: Path) -> None:
    write_app(tmp_path / "my-app")
    policy = read_policy(tmp_path / "my-app" / "guard.toml")
    fab = built(tmp_path / "my-app")
    rules = policy.apps.model_copy(update={"isolation": ISOLATION, "log": tmp_path / "log"})
    apps = AppProcesses(rules, tmp_path)
    cover = ReplyPrivatizer(policy, Ledger.open(policy.ledger, policy.key))
    normed = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    weights = nn.Sequential(*normed, nn.Flatten(), nn.Linear(128, 10)).state_dict()
    own: dict[str, Any] = {}

    def answer(category: str) -> Message:
        message = asking(category, weights)
        context = Context(5, 7, {"partition-id": 0, "num-partitions": 4}, RecordDict(), CONFIG)
        order = AppTask(message, context, 9, fab)

        def run(expected: Any) -> Any:
            own[category] = apps.run(order, expected)
            return own[category]

        covered = cover.answer(message, hashlib.sha256(fab).hexdigest(), run)
        assert covered.why == ""
        return covered.reply

    sent = answer("train").content.array_records["arrays"].to_torch_state_dict()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert all(torch.equal(sent[name], weights[name]) for name in sent if "running" in name or "tracked" in name)
    assert own["train"]["1.num_batches_tracked"] > 0
    assert not torch.equal(own["train"]["0.weight"], weights["0.weight"])  # the app did train
    assert not torch.equal(sent["0.weight"], own["train"]["0.weight"])
    replies = [answer("evaluate").content.metric_records["metrics"] for _ in range(10)]
    assert [dict(reply) for reply in replies[:9]] == [{"num-examples": 1, "accuracy": 0.5}] * 9
    assert 0.0 <= float(own["evaluate"]["accuracy"]) <= 1.0
    assert replies[9]["accuracy"] != pytest.approx(float(own["evaluate"]["accuracy"]))


@pytest.mark.parametrize("name", ["My-App", "my_app", "2apps", "class", "my app"])
def test_a_name_that_is_no_package_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FedsimError, match="is not a name for an app"):
        write_app(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my-app").mkdir()
    with pytest.raises(FedsimError, match="my-app exists already"):
        write_app(tmp_path / "my-app")
    assert list((tmp_path / "my-app").iterdir()) == []
