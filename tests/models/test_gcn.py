"""Graph convolutions."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.nets.masks import dropout_sites
from fedsim.models._graph import GraphConfig
from fedsim.models.gcn import gcn
from tests.models.sizes import parameters, spec


def test_sizes_and_places_of_dropout() -> None:
    model = gcn(GraphConfig(width=16, dropout=0.5), spec(6, 15))
    assert parameters(model) == (9 * 16 + 16) + (16 * 16 + 16) + (16 * 10 + 10)
    assert [site.shape for site in dropout_sites(model, (6, 15), 2)] == [(2, 6, 16), (2, 6, 16)]


@pytest.mark.parametrize("shape", [(1, 28, 28), (6, 6), (9,)])
def test_what_is_no_graph_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FedsimError, match="reads graphs of n nodes"):
        gcn(GraphConfig(), spec(*shape))
