"""What a method makes public: facts that attacks understand, apart from settings of its own."""

import pytest

from fedsim.core.errors import FedsimError
from fedsim.core.types import PublicKnowledge


def test_a_setting_among_the_facts_is_refused_with_the_place_where_it_belongs() -> None:
    with pytest.raises(FedsimError, match="'mine' makes public: .* no fact 'norms'. Did you mean 'norm'.* `settings`"):
        PublicKnowledge("mine", {"norms": "BA", "signs": True})
    assert PublicKnowledge("mine", {"signs": True}, {"norm": "BA"}).settings == {"norm": "BA"}
