"""A knob is a number that its family varies."""

from fedsim.report.sweep.sensitivity import knobs
from tests.report.sweep.estimating import estimated


def test_a_knob_is_a_number_that_its_family_varies(tmp_path, records, sweeps):
    folder = sweeps.save(tmp_path, records, sweeps.typical(records))
    (knob,) = knobs(estimated(folder)[1])
    assert (knob.family, knob.key) == ("gradient-noise", "defenses.0.scale")
    assert [[value for value, _ in line] for line in knob.lines] == [[0.01, 1.0]]
