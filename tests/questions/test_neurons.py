"""Neurons: a planted one that moved names its token, and a change of an adapter is that of the merged weight."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.components.core.low_rank import LowRankLinear
from fedsim.core.errors import ScenarioError
from fedsim.questions.base import QuestionContext
from fedsim.questions.neurons import NeuronQuestion, Neurons, weight_changes
from fedsim.scenario import world as worlds
from tests.components.generating import tiny_llama
from tests.experiment.running import Build
from tests.questions.texts import TEXTS, evidence_of

UP = "layers.0.mlp.up_proj"
LORA = {"components": [{"name": "lora", "targets": ["layers.1.mlp.up_proj"], "rank": 4}]}


def test_the_change_of_an_adapter_is_to_first_order_that_of_the_merged_weight() -> None:
    source, size = torch.Generator().manual_seed(0), 1e-6
    layer = LowRankLinear(nn.Linear(6, 5), 2, source).double()
    layer.lora_b.weight.data.normal_(generator=source)
    model = nn.ModuleDict({"up_proj": layer})
    change = {
        f"up_proj.{name}.weight": torch.randn(shape, generator=source).double()
        for name, shape in (("lora_a", (2, 6)), ("lora_b", (5, 2)))
    }
    told = weight_changes(model, change, "up_proj")["up_proj"]
    before = layer.merge_adapter().weight
    for name, moved in change.items():
        model.get_parameter(name).data += size * moved
    torch.testing.assert_close(
        (layer.merge_adapter().weight - before) / size, told, atol=1e-5, rtol=0
    )  # second order in size


@pytest.mark.paper_step("head-neurons", "names of the neurons that an update moved")
def test_a_planted_neuron_that_moved_names_its_token() -> None:
    model, token = tiny_llama(), 7
    model.get_parameter("lm_head.weight").data[:16] = torch.eye(16)
    model.get_parameter("lm_head.weight").data[16:] = 0
    rows = model.get_parameter(f"{UP}.weight")
    rows.data.fill_(0).add_(0.01 * torch.eye(16))
    rows.data[5] = 3 * torch.eye(16)[token]
    beyond = {f"{UP}.weight": torch.zeros(16, 16).double()}
    beyond[f"{UP}.weight"][5] = 1.0
    question = NeuronQuestion(Neurons(top_neurons=1, words=1))
    assert question._words(model, beyond, torch.zeros(23, dtype=torch.bool)) == [token]
    is_common = torch.arange(23) == token
    assert token not in question._words(model, beyond, is_common)


@pytest.mark.parametrize("tables", [{}, LORA])
def test_updates_of_texts_have_a_figure_and_a_control(scenario: Build, tables: dict[str, Any]) -> None:
    evidence = evidence_of(scenario(**{**TEXTS, **tables}))
    named, control = NeuronQuestion(Neurons(top_neurons=5, words=5, public=2)).run(evidence, QuestionContext())
    assert (named.role, control.role, named.scope) == ("attack", "negative-control", {"updates": 16})
    assert (named.value.n, named.chance_level) == (8, pytest.approx(control.value.value))


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"threat": {"view": "sum"}}, "a sum has no single text"),
        ({"components": [{**LORA["components"][0], "targets": ["*.down_proj"]}]}, "clients train no layer 'up_proj'"),
    ],
)
def test_what_has_no_answer_is_refused_before_training(scenario: Build, tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        NeuronQuestion(Neurons()).check(worlds.build(scenario(**{**TEXTS, **tables})))
