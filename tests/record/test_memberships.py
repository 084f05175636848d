"""A summary names its figures as the metrics that they are."""

from fedsim.core import registry
from fedsim.metrics.membership import LOW_FPR, name_of
from fedsim.record import Interval, MembershipSummary, TruePositives


def test_figures_beside_the_auc_are_those_that_so_many_candidates_support() -> None:
    auc = Interval(value=0.6, low=0.5, high=0.7, n=200)
    rates = {fpr: Interval(value=2 * fpr, low=0.0, high=1.0, n=100) for fpr in LOW_FPR[:2]}
    low_fpr = tuple(TruePositives(fpr=fpr, tpr=rates.get(fpr)) for fpr in LOW_FPR)
    own = MembershipSummary(auc=auc, advantage=0.25, low_fpr=low_fpr, roc=((0.0, 0.0), (1.0, 1.0)))
    assert own.more == {
        **{name_of(fpr): rate for fpr, rate in rates.items()},
        "advantage": Interval(value=0.25, low=None, high=None, n=200),
    }
    assert own.more.keys() <= registry.every_metric().keys()
