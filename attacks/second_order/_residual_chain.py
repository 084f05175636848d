"""Split a residual network into a chain of stages, cut at tensors with several readers.

The model's forward pass is traced. The network can be cut at a tensor on which all later values depend alone; a
residual block starts where such a tensor is read more than once. So the stages are the stem, the blocks, and the rest,
which ends in front of the head.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call

from attacks.second_order._client import write_no_statistics
from fedsim.core.errors import NotApplicable
from fedsim.core.nets.masks import disable_dropout
from fedsim.core.nets.output_layer import output_layer
from fedsim.core.types import Observation

_RELUS: tuple[Any, ...] = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
_ADDS = {operator.iadd: operator.add, operator.imul: operator.mul, operator.isub: operator.sub}


class SmoothRelu(nn.Module):
    """ReLU, or its smooth approximation z sigmoid(b z), which converges to ReLU as b grows.

    Attributes:
        sharpness: b; infinite for ReLU itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = math.inf

    def forward(self, values: Tensor) -> Tensor:
        if math.isinf(self.sharpness):
            return torch.relu(values)
        return values * torch.sigmoid(self.sharpness * values)


@dataclass(frozen=True)
class Stage:
    """A part of the network with a single input tensor and a single output tensor.

    Attributes:
        name: name of its first layer.
        module: the part in double precision; its parameters keep their names.
        names: names of its trained parameters.
        is_gated: whether a ReLU follows, which is not part of the module.
    """

    name: str
    module: fx.GraphModule
    names: tuple[str, ...]
    is_gated: bool

    def apply(self, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the outputs for inputs (B, ...), before the ReLU if one follows."""
        return functional_call(self.module, {name: weights[name] for name in self.names}, (inputs,))

    def close(self, outputs: Tensor) -> Tensor:
        """Return the next stage's inputs: the outputs, after the ReLU if one follows."""
        return outputs.relu() if self.is_gated else outputs

    def weights(self) -> dict[str, Tensor]:
        """Return the trained parameters by name."""
        return {name: self.module.get_parameter(name) for name in self.names}

    def relus(self) -> list[SmoothRelu]:
        """Return the ReLUs of the module."""
        return [module for module in self.module.modules() if isinstance(module, SmoothRelu)]


class Chain(NamedTuple):
    """Stages from the image to the head's input, without a dropout and reshapes between.

    Attributes:
        stages: from the first to the last.
        head: name of the last linear layer.
    """

    stages: tuple[Stage, ...]
    head: str


def chain_of(observation: Observation) -> Chain:
    """Split the observed model into stages.

    Raises:
        NotApplicable: the model cannot be traced, is not a chain of residual blocks in front of a linear layer, or has
            a stage without trained weights.
    """
    output = output_layer(observation.model, observation.spec.classes)
    if output is None:
        raise NotApplicable("the model has no last linear layer with a row per class")
    root = observation.working_copy("train", torch.float64).cpu().requires_grad_(False)
    write_no_statistics(root)
    traced = _trace_graph(root)
    noise = torch.randn((2, *observation.spec.shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with disable_dropout():
        values = node_values(traced, noise)
    end = _find_head_input(traced, output[0], values)
    pieces = _join_pieces(traced, _pieces(end, values))
    if len(pieces) < 2:  # noqa: PLR2004 - a stem and a block
        raise NotApplicable("the model is no chain of residual blocks")
    stages = tuple(_stage(traced, piece, observation) for piece in pieces)
    return Chain(stages, output[0])


def _trace_graph(root: nn.Module) -> fx.GraphModule:
    """Return the model as a graph without in-place operations, and with `SmoothRelu` for its ReLUs."""
    for module in root.modules():
        if hasattr(module, "inplace"):
            vars(module)["inplace"] = False
    try:
        traced = fx.symbolic_trace(root)
    except Exception as error:  # the model's own forward pass may raise any exception on a proxy
        raise NotApplicable(f"the model's forward pass cannot be traced: {str(error).splitlines()[0]}") from error
    relu = 0
    for node in traced.graph.nodes:
        node.target = _ADDS.get(node.target, node.target)
        is_relu = node.op == "call_module" and type(traced.get_submodule(node.target)) is nn.ReLU
        if is_relu or (node.op in ("call_function", "call_method") and node.target in _RELUS):
            name, relu = f"smooth_relu_{relu}", relu + 1
            traced.add_submodule(name, SmoothRelu())
            node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
    traced.recompile()
    return traced


def node_values(module: fx.GraphModule, inputs: Tensor) -> dict[fx.Node, Any]:
    """Return the value of each node of a graph for inputs (B, ...)."""
    values: dict[fx.Node, Any] = {}

    class _Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n] = super().run_node(n)
            return values[n]

    with torch.no_grad():
        _Recorder(module).run(inputs)
    return values


def _find_head_input(traced: fx.GraphModule, head: str, values: Mapping[fx.Node, Any]) -> fx.Node:
    """Return the node that the head reads, before the dropout and the reshapes between."""
    calls = [node for node in traced.graph.nodes if node.op == "call_module" and node.target == head]
    (answer,) = (node for node in traced.graph.nodes if node.op == "output")
    if len(calls) != 1 or answer.args[0] is not calls[0]:
        raise NotApplicable(f"the outputs of the last linear layer '{head}' are not the model's")
    node = calls[0].args[0]
    while (before := _find_reshaped_input(node, values)) is not None:
        node = before
    return node


def _find_reshaped_input(node: fx.Node, values: Mapping[fx.Node, Any]) -> fx.Node | None:
    """Return the input node of a reshape or a dropout, or None for other nodes."""
    for before in node.all_input_nodes:
        value = values[before]
        if isinstance(value, Tensor) and torch.equal(value.flatten(), values[node].flatten()):
            return before
    return None


def _pieces(end: fx.Node, values: Mapping[fx.Node, Any]) -> list[list[fx.Node]]:
    """Return the nodes up to `end`, cut after each tensor with several readers and no path around it."""
    nodes = [node for node in _collect_dependencies(end) if node.op != "get_attr"]
    place = {node: number for number, node in enumerate(nodes)}
    last = {node: max((place[user] for user in node.users if user in place), default=len(nodes)) for node in nodes}
    pieces: list[list[fx.Node]] = [[]]
    open_until = 0
    for number, node in enumerate(nodes):
        pieces[-1].append(node)
        readers = sum(user in place for user in node.users)
        if readers > 1 and open_until <= number and isinstance(values[node], Tensor):
            pieces.append([])
        open_until = max(open_until, last[node])
    return pieces if pieces[-1] else pieces[:-1]


def _collect_dependencies(end: fx.Node) -> list[fx.Node]:
    """Return a node and all nodes on which it depends, in the order of the graph."""
    needed, left = {end}, [end]
    while left:
        for node in left.pop().all_input_nodes:
            if node not in needed:
                needed.add(node)
                left.append(node)
    return [node for node in end.graph.nodes if node in needed]


def _join_pieces(traced: fx.GraphModule, pieces: Sequence[list[fx.Node]]) -> list[list[fx.Node]]:
    """Return pieces that each have weights: pieces without weights join the piece before."""
    joined: list[list[fx.Node]] = []
    for piece in pieces:
        if joined and not (_has_weights(traced, piece) and _has_weights(traced, joined[-1])):
            joined[-1].extend(piece)
        else:
            joined.append(list(piece))
    return joined


def _has_weights(traced: fx.GraphModule, piece: Sequence[fx.Node]) -> bool:
    called = (traced.get_submodule(str(node.target)) for node in piece if node.op == "call_module")
    reads = any(source.op == "get_attr" for node in piece for source in node.all_input_nodes)
    return reads or any(True for module in called for _ in module.parameters())


def _stage(traced: fx.GraphModule, piece: Sequence[fx.Node], observation: Observation) -> Stage:
    nodes = [node for node in piece if node.op != "placeholder"]
    is_gated = isinstance(_module_of(traced, nodes[-1]), SmoothRelu)
    inner = nodes[:-1] if is_gated else nodes
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}

    def take(node: fx.Node) -> fx.Node:
        if node not in known:
            is_constant = node.op == "get_attr"
            known[node] = graph.node_copy(node) if is_constant else graph.placeholder("inputs")
        return known[node]

    for node in inner:
        for source in node.all_input_nodes:
            take(source)
        known[node] = graph.node_copy(node, take)
    graph.output(known[inner[-1]])
    module = fx.GraphModule(traced, graph)
    trained = observation.update.tensors
    names = tuple(name for name, _ in module.named_parameters() if name in trained)
    if not names:
        raise NotApplicable(f"no weights of the stage that begins with '{nodes[0].target}' are trained")
    return Stage(names[0].rpartition(".")[0], module, names, is_gated)


def _module_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None
