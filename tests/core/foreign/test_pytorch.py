"""Private names of torch behave as fedsim expects."""

import pytest
import torch
from torch import Tensor, nn

from fedsim.core.foreign import pytorch


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (pytorch.BatchNorm, [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.SyncBatchNorm(2)], [nn.LayerNorm(2)]),
        (pytorch.Dropout, [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout()], [nn.Identity(), nn.Linear(2, 2)]),
        (pytorch.Loss, [nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()], [nn.Softmax(0), nn.Linear(2, 2)]),
    ],
)  # fmt: skip
def test_base_classes(kind: type, inside: list[nn.Module], outside: list[nn.Module]) -> None:
    assert all(isinstance(module, kind) for module in inside)
    assert not any(isinstance(module, kind) for module in outside)


def test_function_modes_lists_active_modes_in_order() -> None:
    class First(torch.overrides.TorchFunctionMode):
        pass

    class Second(First):
        pass

    assert pytorch.function_modes() == []
    with First(), Second():
        assert [type(mode) for mode in pytorch.function_modes()] == [First, Second]
    assert pytorch.function_modes() == []


def test_dispatch_mode_sees_each_operation_and_leaves_flatten_its_arguments() -> None:
    seen: list[tuple[str, int]] = []

    class Watch(pytorch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            tensors = [leaf for leaf in pytorch.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            seen.append((func.name(), len(tensors)))
            return func(*args, **(kwargs or {}))

    a, b = torch.ones(2), torch.ones(3)
    with Watch():
        torch.cat([a, b]).neg()
    assert seen == [("aten::cat", 2), ("aten::neg", 1)]


def test_outside_transforms_a_tensor_has_storage() -> None:
    states: list[int] = []

    def noisy(x: Tensor) -> Tensor:
        with pytorch.outside_transforms():
            states.append(torch.random.get_rng_state().numpy().size)
        return x.sum()

    torch.func.grad(noisy)(torch.ones(3))
    assert states == [torch.random.get_rng_state().numpy().size]


def test_forward_hooks_lists_hooks_and_pre_hooks() -> None:
    module, after, before = nn.Linear(1, 1), lambda *_: None, lambda *_: None
    assert pytorch.forward_hooks(module) == []
    handle = module.register_forward_hook(after)
    module.register_forward_pre_hook(before)
    assert pytorch.forward_hooks(module) == [after, before]
    handle.remove()
    assert pytorch.forward_hooks(module) == [before]


def test_write_count_counts_writes_of_equal_values() -> None:
    tensor = torch.zeros(2)
    before = pytorch.write_count(tensor)
    tensor + 1
    assert pytorch.write_count(tensor) == before
    tensor.add_(0.0)
    tensor[0] = 0.0
    assert pytorch.write_count(tensor) == before + 2


def test_foreach_functions_equal_their_functions_of_one_tensor() -> None:
    first, second = [torch.tensor([1.0, 2.0]), torch.tensor([2.0])], [torch.tensor([4.0, 9.0]), torch.tensor([16.0])]

    def after(function, *arguments: object) -> list[list[float]]:
        copies = [tensor.clone() for tensor in first]
        out = function(copies, *arguments)
        return [tensor.tolist() for tensor in (copies if out is None else out)]

    assert after(pytorch.foreach_add_, 1.0) == [[2.0, 3.0], [3.0]]
    assert after(pytorch.foreach_sub_, second) == [[-3.0, -7.0], [-14.0]]
    assert after(pytorch.foreach_mul_, 2.0) == [[2.0, 4.0], [4.0]]
    assert after(pytorch.foreach_mul_, second) == [[4.0, 18.0], [32.0]]
    assert after(pytorch.foreach_div_, 2.0) == [[0.5, 1.0], [1.0]]
    assert after(pytorch.foreach_lerp_, second, 0.5) == [[2.5, 5.5], [9.0]]
    assert after(pytorch.foreach_addcmul_, second, second, 0.5) == [[9.0, 42.5], [130.0]]
    assert after(pytorch.foreach_copy_, second) == [[4.0, 9.0], [16.0]]
    assert [tensor.tolist() for tensor in pytorch.foreach_sqrt(second)] == [[2.0, 3.0], [4.0]]
    assert [tensor.tolist() for tensor in pytorch.foreach_div(second, first)] == [[4.0, 4.5], [8.0]]


def test_fused_adam_equals_the_optimizer() -> None:
    ours, theirs = torch.tensor([1.0, -2.0]), nn.Parameter(torch.tensor([1.0, -2.0]))
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.9), eps=1e-6, foreach=False)
    first, second = torch.zeros(2), torch.zeros(2)
    for step in (1.0, 2.0):
        gradient = torch.tensor([0.5, 3.0]) / step
        theirs.grad = gradient.clone()
        adam.step()
        pytorch.fused_adam_(
            [ours], [gradient], [first], [second], [], [torch.tensor(step)],
            lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0.0, eps=1e-6, amsgrad=False, maximize=False,
        )  # fmt: skip
    torch.testing.assert_close(ours, theirs.detach())
