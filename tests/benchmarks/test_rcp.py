"""The benchmark of rcp: masks read off a gradient, cells read off a summary, moments with mending and without."""

import pytest
import torch

from benchmarks import rcp
from fedsim.bench import grids, pruning
from fedsim.bench.grid_accuracy import questions
from fedsim.core.types import Batch

PARTS = {"layers": (1, 3), "repairs": (2, 5)}


@pytest.fixture(scope="module")
def model():
    """Parts that keep about half of the tokens, and whose repairs look at what was lost."""
    own = pruning.with_parts(grids.fresh(), **PARTS).eval()
    with torch.no_grad():
        for pruner in own.reducers[0].pruners.values():
            pruner.bias.zero_()
        for weights in own.reducers[0].repairs.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)))
    return own


def test_rows_of_the_gradient_are_the_kept_patches(model) -> None:
    model.requires_grad_(False)
    model.reducers[0].requires_grad_(True)
    found = [rcp._reads_masks(model, some) for some in questions("position", 4, 0).split(2)]
    assert found == [[True, True], [True, True]]
    model.eval()
    counts = [int(own.places.grad.any(1).sum()) for own in model.reducers[0].lost.values()]
    assert all(0 < count < 64 for count in counts), "a mask of all patches would be read whatever is dropped"


def test_moments_are_those_of_the_model_itself_where_nothing_is_dropped_and_strength_comes_back() -> None:
    plain, batches = grids.fresh(), {"position": questions("position", 6, 0)}
    own = pruning.with_parts(plain, **PARTS).eval()
    for pruner in own.reducers[0].pruners.values():
        torch.nn.init.constant_(pruner.bias, 1000.0)
    before = [repair.strength.item() for repair in own.reducers[0].repairs.values()]
    rows = list(rcp.moment_rows(plain, {"own": own}, batches))  # type: ignore[arg-type]
    assert [(row.name[-1], row.setting) for row in rows] == [
        (layer, f"own, {way}") for way in ("as trained", "mending switched off") for layer in "25"
    ]
    mended, off = rows[:2], rows[2:]
    assert all(row.value == pytest.approx(0, abs=1e-9) for row in off)
    assert all(row.value > 1e-6 for row in mended)
    assert [repair.strength.item() for repair in own.reducers[0].repairs.values()] == before


def test_a_summary_that_holds_the_cells_tells_them_and_that_of_another_image_does_not(
    model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = questions("presence", 80, 0)
    cells = batch.inputs.unfold(2, 14, 14).unfold(3, 14, 14).amax((4, 5)).flatten(1) > 0.1
    seen = rcp._Watching()
    seen.lost = [cells.float()]
    monkeypatch.setattr(rcp, "watched", lambda _model, _batch: seen)
    own, control = rcp.summary_rows(model, "own", {"presence": batch})
    assert own.minimum > 0.99
    assert control.minimum < 0.5 < control.maximum


def test_an_early_drop_reads_as_many_tokens_a_layer(model) -> None:
    batches: dict[str, Batch] = {"position": questions("position", 4, 0)}
    names: list[str] = []

    def point(contender, plain, asked):
        names.append(contender.settings.get("kept", contender.label))
        return rcp_point(contender, plain, asked)

    rcp_point = rcp.point
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rcp.Contender, "models", lambda own, plain: iter([model if own.component == "rcp" else plain]))
        patch.setattr(rcp, "point", point)
        rows = list(rcp.answer_rows(grids.fresh(), {"rcp-50": model}, batches))  # type: ignore[arg-type]
    tokens = float(rows[0].setting.rpartition(", ")[2].split()[0])
    assert names == ["rcp-50", round((6 * tokens - 64) / 5)]


def test_before_the_first_step_no_row_has_a_gradient() -> None:
    own = pruning.with_parts(grids.fresh(), **PARTS)
    own.requires_grad_(False)
    own.reducers[0].requires_grad_(True)
    assert rcp._reads_masks(own, questions("position", 1, 0)) == [False, False]
    assert not any(lost.places.grad.any() for lost in own.reducers[0].lost.values())
