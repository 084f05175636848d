"""Tables of the attacker and the scorer: how a method may be named."""

from fedsim.scenario import Choice
from fedsim.scenario.threat_tables import Forgetting


def test_what_forgets_may_be_named_alone_or_with_settings() -> None:
    alone = Forgetting.model_validate({"by": "retraining"})
    assert alone.by == Choice(name="retraining")
    settings = {"by": {"name": "retraining", "rounds": 2}}
    assert Forgetting.model_validate(settings).by.settings == {"rounds": 2}
