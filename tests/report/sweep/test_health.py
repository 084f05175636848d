"""Whether the attacks worked at all: how searches ended, and whether a control was recovered."""

from fedsim.report.sweep.health import health, histories
from fedsim.report.tables.figures import NOTHING
from tests.report.sweep.estimating import estimated


def test_searches_are_counted_over_all_settings_and_the_control_alone_says_whether_it_can_succeed(
    tmp_path, records, sweeps
):
    found = [records.item(psnr=30.0, ssim=0.95)]
    ended = [records.victim(c, found, converged=True) for c in range(2)]
    gone = [records.failed(c, why) for c, why in enumerate(("needs a bias", "diverged"))]
    undefended, noisy = "none", "gradient-noise 1.0"
    runs = [
        sweeps.one(records, undefended, 1, [*ended, *gone]),
        sweeps.one(records, noisy, 1, [own.model_copy(update={"converged": False}) for own in records.missed(3)]),
    ]
    sweep, _ = estimated(sweeps.save(tmp_path, records, runs))
    (attack,) = health(sweep).rows
    name, control, victims, gave_up, converged, _, reasons = (cell.text for cell in attack.cells)
    assert (name, victims, gave_up, control) == ("ig", "7", "2", "100%")
    assert converged == "2 of 5"
    assert reasons == "needs a bias; diverged"


def test_an_attack_without_a_control_or_a_guess_shows_no_figure(tmp_path, records, sweeps):
    defended = "gradient-noise 1.0"
    runs = [sweeps.one(records, defended, 1, [records.failed(0)])]
    sweep, found = estimated(sweeps.save(tmp_path, records, runs))
    (attack,) = health(sweep).rows
    _, control, _, _, converged, falling, _ = (cell.text for cell in attack.cells)
    assert (control, converged, falling) == (NOTHING, NOTHING, NOTHING)
    assert histories(sweep, found) == []


def test_the_first_controls_searches_are_drawn_with_their_seed_and_a_lost_record_is_no_error(tmp_path, records, sweeps):
    sweep, found = estimated(sweeps.save(tmp_path, records, sweeps.typical(records, seeds=(1, 2))))
    (picture,) = histories(sweep, found)
    assert picture.arm == "none, seed 1"
    (tmp_path / "runs" / f"{0:016x}" / "record.json").unlink()
    assert histories(sweep, found) == []
