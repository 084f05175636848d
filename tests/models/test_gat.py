"""Graph attention."""

from fedsim.models._graph import GraphConfig
from fedsim.models.gat import gat
from tests.models.sizes import parameters, spec


def test_each_layer_has_two_vectors_of_attention_more() -> None:
    model = gat(GraphConfig(width=16, depth=3), spec(6, 15))
    assert parameters(model) == (9 * 16 + 16) + 2 * (16 * 16 + 16) + 3 * 2 * 16 + (16 * 10 + 10)
