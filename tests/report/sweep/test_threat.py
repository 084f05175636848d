"""Every grant has words for the report."""

from fedsim.core.types import GRANTS
from fedsim.report.verdict import knowledge
from tests.report.attacked import attack, item


def test_every_grant_has_words_for_the_report() -> None:
    for name in GRANTS:
        said = knowledge(attack([item()]).model_copy(update={"knows": (name,)}))
        assert [other for other, grant in GRANTS.items() if grant.assumption_name in said] == [name]
    everything = knowledge(attack([item()]).model_copy(update={"knows": tuple(GRANTS)}))
    assert all(grant.assumption_name in everything for grant in GRANTS.values())
    assert all(grant.realistic and grant.why for grant in GRANTS.values())
    assert knowledge(attack([item()]).model_copy(update={"knows": ()})) == "nothing beyond the model and the update"
