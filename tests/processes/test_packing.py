"""What travels between an attack's process and the scorer's comes back as it was, and is no code."""

import io
import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.core.errors import FedsimError
from fedsim.core.types import Batch, Reconstruction, Step
from fedsim.processes import packing


def guess(**fields: Any) -> Reconstruction:
    made = Reconstruction(torch.rand(2, 1, 3, 3), torch.tensor([1, 2]), None, 0.5, 3, 2, ((1, 0.5),), "done")
    return replace(made, **fields)


def test_a_guess_comes_back_as_it_was() -> None:
    whole = guess(
        masks=(torch.ones(2, 4),),
        notes=("one", "two"),
        diagnostics={"rank": 2.0},
        trained_batch=Batch(torch.rand(2, 1, 3, 3), torch.rand(2, 5)),
        extras={"part.what": torch.arange(3)},
        is_exact=True,
    )
    (back,) = packing.unpack_values(packing.pack_values([whole]))
    assert torch.equal(back.inputs, whole.inputs)
    assert torch.equal(back.trained_batch.labels, whole.trained_batch.labels)
    assert torch.equal(back.extras["part.what"], whole.extras["part.what"])
    plain = ("objective", "iterations", "best_iteration", "history", "stop_reason", "notes", "diagnostics", "is_exact")
    assert all(getattr(back, name) == getattr(whole, name) for name in plain)


SECRET = torch.arange(1000.0)


@pytest.mark.parametrize(
    "view",
    [
        SECRET[3:8],
        SECRET[::7],
        SECRET.view(10, 100)[:, :2].t(),
        SECRET[5:6].expand(4),
        SECRET[5:6].expand(2, 1000),
        SECRET.as_strided((500, 2), (1, 500))[:, :1].expand(500, 2),
        SECRET[:0],
        torch.nn.Parameter(SECRET[:4]),
        SECRET.clone().requires_grad_()[2:4],
        SECRET.long()[1:3],
        torch.complex(SECRET, torch.zeros(1000))[2:4].conj(),
    ],
)
def test_a_view_is_sent_without_the_values_around_it(view: torch.Tensor) -> None:
    sent = packing.serialise_value({"one": [view, view]})
    (one, two) = torch.load(io.BytesIO(sent), weights_only=False)["one"]
    assert torch.equal(one, view.detach())
    assert torch.equal(two, view.detach())
    assert (one.dtype, one.requires_grad, type(one)) == (view.dtype, view.requires_grad, type(view))
    assert one.untyped_storage().nbytes() <= view.numel() * view.element_size()
    around = set(SECRET.tolist()) - set(view.detach().abs().flatten().tolist())
    memory = torch.empty(0, dtype=one.dtype).set_(one.untyped_storage())
    assert not around & set(memory.abs().tolist())


def test_tensors_of_their_own_memory_are_sent_once_in_any_order_of_axes() -> None:
    transposed = torch.arange(6.0).view(1, 2, 3).permute(2, 0, 1)
    (back,) = torch.load(io.BytesIO(packing.serialise_value([transposed])), weights_only=False)
    assert (back.stride(), back.tolist()) == (transposed.stride(), transposed.tolist())
    assert len(packing.serialise_value([SECRET, SECRET, SECRET])) < 6000
    one, two = torch.load(io.BytesIO(packing.serialise_value([SECRET, SECRET])), weights_only=False)
    assert one.data_ptr() == two.data_ptr()


def test_what_an_attack_sends_is_no_code() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("true",)

    with pytest.raises(ValueError, match="decode"):
        packing.unpack_values(packing.serialise_value([{"inputs": torch.zeros(1)}]))
    with pytest.raises(FedsimError, match="holds a Evil"):
        packing.pack_values([guess(extras={"x": Evil()})])
    with pytest.raises(FedsimError, match="sparse"):
        packing.pack_values([guess(inputs=torch.zeros(2).to_sparse())])


@pytest.mark.parametrize("kind", packing._TYPES.values(), ids=packing._TYPES)
@pytest.mark.parametrize("shape", [(), (3, 2), (0, 4)])
def test_tensors_of_every_type_come_back_as_they_were(kind: torch.dtype, shape: tuple[int, ...]) -> None:
    sent = (torch.rand(shape) * 5 - 1).to(kind)
    back, strided = packing.unpack_values(packing.pack_values([sent, torch.arange(6.0).reshape(2, 3).T]))
    assert torch.equal(back, sent)
    assert (back.dtype, back.shape) == (kind, sent.shape)
    assert torch.equal(strided, torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b'{"tensor": ["float32", 1000000000000]}\n', "no 4,000,000,000,000 bytes"),
        (b'{"tensor": ["float32", -1, -1]}\n0000', "for a tensor of shape"),
        (b'{"tensor": ["float32", 0, 1000000000]}\n', "for a tensor of shape"),
        (b'{"tensor": ["float32", 1]}\n00000000', "4 bytes too many"),
        (b"[" + b"0," * packing.MOST_TEXT, "more than 8,388,608 bytes"),
    ],
)
def test_an_answer_is_no_larger_than_what_was_sent(payload: bytes, why: str) -> None:
    with pytest.raises(FedsimError, match=why):
        packing.unpack_values(payload)


def test_a_byte_that_is_no_truth_value_counts_as_true() -> None:
    assert packing.unpack_values(b'{"tensor": ["bool", 2]}\n\x00\x07').tolist() == [False, True]


def test_of_many_words_about_a_failure_the_first_are_kept() -> None:
    assert len(packing.read_reason(b"no" * 1_000_000)) == 10_000


def test_a_step_comes_back_as_it_was() -> None:
    for images in (torch.rand(2, 1, 3, 3), torch.arange(6).reshape(2, 3), torch.empty(0, 3)):
        step = Step(1, 20, 30, 0.25, float("inf"), images)
        back = packing.step_of(packing.pack_step(step))
        numbers = (back.restart, back.iteration, back.iterations, back.objective, back.best)
        assert numbers == (1, 20, 30, 0.25, float("inf"))
        assert torch.equal(back.guess, images)
        assert back.guess.dtype == images.dtype
