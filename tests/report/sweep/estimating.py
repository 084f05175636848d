"""What a sweep estimates and judges."""

from fedsim.report.sweep.gathered import gather
from fedsim.report.sweep.points import points
from fedsim.report.sweep.verdict import banners, verdicts


def estimated(folder):
    sweep = gather(folder)
    return sweep, points(sweep)


def judged(folder):
    sweep, found = estimated(folder)
    (verdict,) = verdicts(sweep, found)
    return verdict, [banner.level for banner in banners(sweep, found)]
