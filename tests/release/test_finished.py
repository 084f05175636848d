"""What a user names is read, and what does not fit is one sentence."""

import hashlib
from pathlib import Path

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch
from fedsim.release import finished
from tests.release import hospital


def test_weights_stand_in_the_model_and_each_example_on_one_side(tmp_path: Path) -> None:
    model = finished.read(hospital.plan(hospital.saved(tmp_path, 1)))
    assert torch.equal(model.subject.model.state_dict()["1.weight"], hospital.trained_on(1).state_dict()["1.weight"])
    assert (len(model.members), len(model.non_members)) == (120, 120)
    assert torch.equal(model.non_members.inputs, hospital.pictures(2)[0])


def test_examples_that_are_alike_count_once() -> None:
    twice = Batch(torch.tensor([[1.0], [2.0], [1.0], [1.0]]), torch.tensor([0, 0, 0, 1]))
    once = finished.each_once(twice)
    assert (once.inputs.flatten().tolist(), once.labels.tolist()) == ([1.0, 2.0, 1.0], [0, 0, 1])


def changed(tmp_path: Path, name: str) -> Path:
    """Return weights that lack a name, or have another shape."""
    weights = dict(hospital.trained_on(1).state_dict())
    if name == "lacks":
        del weights["3.bias"]
    elif name == "wide":
        weights["3.bias"] = torch.zeros(3)
    else:
        weights["1.weight"] = weights["1.weight"].clone()
        weights["1.weight"][3, 2:5] = {"nan": torch.nan, "infinite": torch.inf, "huge": 3e38}[name]
        weights["3.weight"] = weights["3.weight"] * (1e30 if name == "huge" else 1.0)
    torch.save(weights, tmp_path / f"{name}.pt")
    return tmp_path / f"{name}.pt"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("lacks", r'lacks\.pt does not fit the model of the factory: .*Missing key\(s\) in state_dict: "3\.bias"'),
        ("nan", r"nan\.pt holds '1\.weight' with 3 of 2048 values that are not finite"),
        ("infinite", r"infinite\.pt holds '1\.weight' with 3 of 2048 values that are not finite"),
        ("huge", r"with the weights of .*huge\.pt the model's loss is NaN for \d+ of \d+ examples"),
        ("wide", r"wide\.pt holds '3\.bias' of shape \(3,\), expected \(2,\), as in the model"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(FedsimError, match=sentence):
        finished.read(hospital.plan(changed(tmp_path, name)))


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ("mixed", "3 examples are among the members and among the others, expected none"),
        ("few", "found 19 different others, expected at least 20 of each side"),
        ("number", "returned int, expected a loader of examples"),
        (None, "gives no examples that the model was not trained on: give --non-members package.module:name"),
    ],
)
def test_sides_on_which_nothing_can_be_shown_are_refused(tmp_path: Path, others: str | None, sentence: str) -> None:
    target = others and f"{hospital.__name__}:{others}"
    with pytest.raises(FedsimError, match=sentence) as caught:
        finished.read(hospital.plan(hospital.saved(tmp_path, 1), non_members=target))
    assert "\n" not in str(caught.value)


def test_a_file_that_holds_no_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FedsimError, match=r"list\.pt holds list, expected tensors by name"):
        finished.read_weights(tmp_path / "list.pt")
    with pytest.raises(FedsimError, match=r"no file .*none\.pt"):
        finished.read_weights(tmp_path / "none.pt")
    (tmp_path / "model.h5").touch()
    with pytest.raises(FedsimError, match=r"ends in '\.h5', expected \.safetensors, \.npz"):
        finished.read_weights(tmp_path / "model.h5")


def test_hashes_are_of_weights_and_of_code(tmp_path: Path) -> None:
    plan = hospital.plan(hospital.saved(tmp_path, 1), reference=hospital.saved(tmp_path, 3))
    before = finished.hashes(plan)
    assert sorted(before) == ["hospital.py", "on-1.pt", "on-3.pt"]
    assert before["on-3.pt"] == hashlib.sha256((tmp_path / "on-3.pt").read_bytes()).hexdigest()
    plan.weights.write_bytes(b"other")
    after = finished.hashes(plan)
    assert after["on-1.pt"] == "d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa" != before["on-1.pt"]
    assert after["hospital.py"] == before["hospital.py"]
