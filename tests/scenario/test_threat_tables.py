"""Tables of the attacker and the scorer: how a method may be named."""

from fedsim.scenario import Choice
from fedsim.scenario.threat_tables import UnlearningSettings


def test_what_forgets_may_be_named_alone_or_with_settings() -> None:
    alone = UnlearningSettings.model_validate({"method": "retraining"})
    assert alone.method == Choice(name="retraining")
    settings = {"method": {"name": "retraining", "rounds": 2}}
    assert UnlearningSettings.model_validate(settings).method.settings == {"rounds": 2}
