import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.core.nets.vectors import Layout

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
PARTS = st.lists(
    st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES), st.sampled_from(["w", "frozen", "b"])),
    max_size=6,
)


def model_of(parts: list[tuple[list[int], torch.dtype, str]], seed: int) -> nn.Module:
    """A module of random parameters, frozen ones and buffers, over many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Module()
    for index, (shape, dtype, kind) in enumerate(parts):
        scale = 10.0 ** torch.randint(-20, 20, (), generator=generator).double()
        values = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
        if kind == "b":
            model.register_buffer(f"b{index}", values)
        else:
            model.register_parameter(f"{kind}{index}", nn.Parameter(values, requires_grad=kind == "w"))
    model.register_buffer("counter", torch.tensor(3))
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    return model


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@given(PARTS, st.integers(0, 1000))
@settings(deadline=None)
def test_flat_and_named_are_inverse_bit_by_bit(parts: list[tuple[list[int], torch.dtype, str]], seed: int) -> None:
    model = model_of(parts, seed)
    layout = Layout(model)
    trainable = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b for name, b in model.named_buffers() if name.startswith("b")}
    vector = layout.flat(trainable, buffers)
    assert vector.shape == (layout.size,)
    assert layout.parameters == sum(tensor.numel() for tensor in trainable.values())
    named, named_buffers = layout.unflatten(vector)
    assert same(named, trainable)
    assert same(named_buffers, buffers)
    assert torch.equal(layout.flat(named, named_buffers), vector)


def test_the_vector_begins_with_the_trainable_values_in_the_models_order() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    layout = Layout(model)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    expected = [t.reshape(-1) for t in model.parameters()] + [torch.zeros(2), torch.ones(2)]
    assert torch.equal(layout.flat(tensors, buffers), torch.cat(expected))
    assert (layout.parameters, layout.size) == (7, 11)
