"""The recorded page in a browser: every control, keyboard, address, and nothing from anywhere else."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from fedsim.core.errors import FedsimError
from fedsim.demo import page as pages
from fedsim.demo.lesson import QUICK, Lesson, installed_grids, record_lesson
from fedsim.demo.messages import messages
from fedsim.demo.recording import Recording, Scene
from fedsim.demo.victim import Setting, granted_knowledge, world_of
from fedsim.threat.observe import describe
from tests.demo.conftest import SLIDERS, Open

DIGEST = "(id) => { const c = document.getElementById(id); return c.toDataURL(); }"

UNSEEN = "It does not see the dropout masks."
WATCH = """() => {
    window.seen = [];
    const note = () => {
        const now = document.getElementById('frame-value').textContent + ', '
            + document.getElementById('play').getAttribute('aria-pressed');
        if (seen[seen.length - 1] !== now) seen.push(now);
    };
    new MutationObserver(note).observe(document.getElementById('controls'), { childList: true, subtree: true });
}"""


@pytest.fixture
def page(browse: Open, page_file: Path) -> Page:
    opened = browse(f"{page_file.as_uri()}#{SLIDERS}")
    expect(opened.locator("body")).to_have_attribute("data-ready", "yes")
    return opened


def drag(page: Page, name: str, share: float) -> None:
    """Move a slider's thumb to a share of its length, with the mouse."""
    slider = page.locator(f"#{name}")
    box = slider.bounding_box()
    low, high, value = (float(slider.evaluate(f"s => s.{key}")) for key in ("min", "max", "value"))
    now = 0.0 if high == low else (value - low) / (high - low)
    inner = box["width"] - 16
    page.mouse.move(box["x"] + 8 + now * inner, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + share * inner, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()


def state(page: Page) -> dict[str, str]:
    # The page itself is asked: `page.url` learns of a new address by a message that may come later.
    address = page.evaluate("location.hash")
    return dict(part.split("=") for part in address.removeprefix("#").split("&"))


def shown(recording: Recording, **wanted: object) -> Scene:
    return next(s for s in recording.scenes if wanted.items() <= s.setting.model_dump().items())


def test_sliders_are_dragged_to_every_end_and_change_what_is_seen(page: Page, recording: Recording) -> None:
    page.check("[value=noise]")
    for name, values in (("rate", ["0", "0.5"]), ("batch", ["1", "2"]), ("noise", ["1", "10"])):
        seen = set()
        for share, value in zip((0.0, 1.0), values, strict=True):
            drag(page, name, share)
            assert state(page)[name] == value
            seen.add(page.evaluate(DIGEST, "now"))
        assert len(seen) == 2, name
    final = shown(recording, rate=0.5, batch=2, protection="noise", noise=10.0).runs["ignores"]
    mean = sum(final.psnr) / 2
    expect(page.locator("#now-text")).to_contain_text(f"{mean:.1f} dB on average")
    drag(page, "frame", 0.0)
    assert state(page)["step"] == "1"
    expect(page.locator("#now-text")).to_contain_text(f"Iteration 1: {final.mean_psnr[0]:.1f} dB")


def test_every_attacker_and_defense_shows_its_own_figures(page: Page, recording: Recording) -> None:
    for protection in ("none", "noise"):
        page.check(f"[name=protection][value={protection}]")
        for attacker in ("ignores", "estimates", "knows", "exact"):
            page.check(f"[name=attacker][value={attacker}]")
            run = shown(recording, rate=0.5, batch=1, protection=protection).runs[attacker]
            expect(page.locator("#now-text")).to_contain_text(f"Iteration {run.used}: {run.psnr[0]:.1f} dB")
            agreement = "was given the mask" if attacker == "knows" else "returns no mask"
            if run.agreement is not None:
                agreement = f"Agreement: {100 * run.agreement:.1f}%"
            expect(page.locator("#mask-text")).to_contain_text(agreement)
            expect(page.locator("#noise")).to_be_enabled(enabled=protection == "noise")
    assert state(page) == {
        "rate": "0.5", "batch": "1", "noise": "1", "defense": "noise", "attack": "exact", "step": "3",
        "compare": "1", "predict": "0",
    }  # fmt: skip


def test_each_slider_position_has_a_picture(page: Page, recording: Recording) -> None:
    page.check("[value=estimates]")
    seen = set()
    for step in range(1, len(recording.grid.frames) + 1):
        page.evaluate(f"location.hash = 'rate=0.5&attack=estimates&step={step}'")
        expect(page.locator("#frame-value")).to_have_text(f"{recording.grid.frames[step - 1]} of 6")
        seen.add(page.evaluate(DIGEST, "now"))
    assert len(seen) == len(recording.grid.frames)


def test_arrows_and_space_move_the_time(page: Page) -> None:
    page.keyboard.press("ArrowLeft")
    assert state(page)["step"] == "2"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert state(page)["step"] == "3"
    page.evaluate(WATCH)
    page.keyboard.press(" ")
    page.wait_for_selector("#play[aria-pressed=false]")
    expect(page).to_have_url(re.compile("step=3"))
    expect(page.locator("#play")).to_have_text("Play")
    assert page.evaluate("seen") == ["1 of 6, true", "3 of 6, true", "6 of 6, true", "6 of 6, false"]


def test_buttons_move_the_time_and_a_focused_slider_keeps_its_own_keys(page: Page) -> None:
    page.click("#back")
    page.click("#back")
    assert state(page)["step"] == "1"
    page.click("#forward")
    assert state(page)["step"] == "2"
    page.evaluate(WATCH)
    page.click("#play")
    expect(page).to_have_url(re.compile("step=3"))
    page.wait_for_selector("#play[aria-pressed=false]")
    assert page.evaluate("seen")[0] == "3 of 6, true"
    page.focus("#rate")
    before = state(page)["step"]
    page.keyboard.press("ArrowLeft")
    assert state(page)["rate"] == "0"
    assert state(page)["step"] == before


def test_the_address_restores_a_state_and_survives_nonsense(browse: Open, page_file: Path) -> None:
    page = browse(f"{page_file.as_uri()}#rate=0&batch=2&defense=noise&noise=10&attack=exact&step=2&compare=0&predict=1")
    expect(page.locator("#rate-value")).to_have_text("0")
    expect(page.locator("#batch-value")).to_have_text("2 images")
    expect(page.locator("#noise-value")).to_have_text("10 x RMS")
    expect(page.locator("[value=exact]")).to_be_checked()
    expect(page.locator("#beside")).to_be_hidden()
    expect(page.locator("#predict")).to_be_visible()
    page.evaluate("location.hash = 'rate=7&batch=-1&defense=<b>&attack=toString&step=1e99&stage=__proto__'")
    expect(page.locator("#predict")).to_be_hidden()
    assert state(page)["attack"] == "ignores"
    assert page.locator("#sliders b").count() == 0


def test_side_by_side_shows_the_same_step_without_dropout(page: Page, recording: Recording) -> None:
    run = shown(recording, rate=0.0, batch=1, protection="none").runs["ignores"]
    expect(page.locator("#without-text")).to_contain_text(f"{run.psnr[0]:.1f} dB")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#without-text")).to_contain_text("Iteration 3")
    page.uncheck("#compare")
    expect(page.locator("#beside")).to_be_hidden()
    assert state(page)["compare"] == "0"


def test_predict_first_hides_the_outcome_until_asked(page: Page) -> None:
    page.check("#predict-first")
    for name in ("now", "difference", "mask-found", "objective", "psnr", "without", "now-text"):
        expect(page.locator(f"#{name}")).to_be_hidden()
    page.click("[data-stage=reconstruction]")
    expect(page.locator("#stage-text")).to_have_text("Reconstruction: hidden until you have guessed.")
    page.click("[data-vote=all]")
    expect(page.locator("#verdict")).to_have_text("")
    page.click("#reveal")
    expect(page.locator("#now")).to_be_visible()
    expect(page.locator("#verdict")).to_have_text("You said all. It was none: 0 of 1.")
    page.check("[value=exact]")
    expect(page.locator("#now")).to_be_hidden()
    page.click("[data-vote=all]")
    page.click("#reveal")
    expect(page.locator("#verdict")).to_have_text("Right. It was all: 1 of 1.")
    page.uncheck("#predict-first")
    expect(page.locator("#now")).to_be_visible()


def test_the_strip_explains_each_stage(page: Page, recording: Recording) -> None:
    expect(page.locator("[aria-current=step]")).to_have_attribute("data-stage", "reconstruction")
    for stage, text in (
        ("data", f"1 image of {recording.side}"),
        ("client", "256 + 256 + 256 units off with probability 0.5"),
        ("update", f"the largest is {max(recording.scenes[0].layers, key=lambda layer: layer[1])[0]}"),
        ("attack", "inverting-gradients changes a guess"),
        ("reconstruction", "0 of 1 image identified"),
    ):
        page.click(f"[data-stage={stage}]")
        expect(page.locator("#stage-text")).to_contain_text(text)
        assert state(page)["stage"] == stage
    page.click("[data-stage=reconstruction]")
    assert "stage" not in state(page)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("[aria-current=step]")).to_have_attribute("data-stage", "attack")


def test_the_threat_follows_the_sliders(page: Page) -> None:
    for rate in (0.0, 0.5):
        for batch in (1, 2):
            for attacker in ("ignores", "estimates", "knows", "exact"):
                page.evaluate(f"location.hash = 'rate={rate:g}&batch={batch}&attack={attacker}'")
                expect(page.locator(f"[value={attacker}]")).to_be_checked()
                expect(page.locator("#batch-value")).to_have_text("1 image" if batch == 1 else f"{batch} images")
                told = page.locator("#threat").text_content() or ""
                assert f"computed on {batch} image" in told
                assert (UNSEEN in told) is (rate > 0 and "masks" not in granted_knowledge(attacker))
                assert ("and the dropout masks" in told) is (rate > 0 and "masks" in granted_knowledge(attacker))
                assert ("the dropout rate" in told) is (rate > 0)
    page.check("[value=noise]")
    expect(page.locator("#threat")).to_contain_text("The client defends itself: clip + noise, 1 x RMS.")


def test_the_threat_says_what_the_program_says() -> None:
    named = {f"grant.{fact}" for fact in granted_knowledge("knows")} - {
        "grant.defenses"
    }  # the defense has a sentence of its own
    assert named <= messages("en").keys()
    told = describe(world_of(Setting()))
    assert UNSEEN in told
    assert messages("en")["threat.server"] in told
    assert re.sub(r"\[|\]\(\w+\)", "", messages("en")["threat.masks"]) == UNSEEN


def test_hostile_text_in_a_recording_stays_text(lesson: Lesson, browse: Open, tmp_path: Path) -> None:
    def hostile(scene: Scene) -> Scene:
        runs = {
            name: run.model_copy(update={"stopped": "</script><img src=x onerror=alert(1)>"})
            for name, run in scene.runs.items()
        }
        return scene.model_copy(update={"runs": runs})

    own = lesson.sets["digits"]
    labels = ("[<img src=y>](no word)", *own.labels[1:])
    changed = own.model_copy(update={"scenes": tuple(map(hostile, own.scenes)), "labels": labels})
    pages.write(lesson.model_copy(update={"sets": {"digits": changed}}), tmp_path / "hostile.html")
    page = browse(f"{(tmp_path / 'hostile.html').as_uri()}#{SLIDERS}")
    expect(page.locator("#now-text")).to_contain_text("Ended: </script><img src=x onerror=alert(1)>")
    assert page.locator("img").count() == 0


def test_where_too_few_pictures_stand_beside_them_nothing_is_said_of_who_is_identified(
    lesson: Lesson, recording: Recording, browse: Open, tmp_path: Path
) -> None:
    scenes = tuple(
        scene.model_copy(
            update={"runs": {name: run.model_copy(update={"identified": ()}) for name, run in scene.runs.items()}}
        )
        for scene in recording.scenes
    )
    few = lesson.model_copy(update={"sets": {"digits": recording.model_copy(update={"scenes": scenes})}, "quiz": ()})
    pages.write(few, tmp_path / "few.html")
    page = browse(f"{(tmp_path / 'few.html').as_uri()}#{SLIDERS}&predict=1&step=9")
    expect(page.locator("#predict")).to_be_hidden()
    expect(page.locator("#predict-first")).to_be_disabled()
    expect(page.locator("#difference-text")).to_have_text("Black is equal, white is as far off as can be.")
    page.locator(".strip button").last.click()
    expect(page.locator("#stage")).to_contain_text("Reconstruction: ")
    expect(page.locator("#stage")).not_to_contain_text("identified")


def test_each_picture_is_stored_once(lesson: Lesson, recording: Recording) -> None:
    text = pages.page_of(lesson)
    strips = {run.strip for s in recording.scenes for run in s.runs.values()} - {recording.originals}
    assert all(text.count(one) == 1 for one in strips)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda folder: folder / "missing" / "demo.html", "no folder"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: Path("/proc/demo.html"), "cannot write to /proc"),
    ],
)
def test_an_impossible_place_is_named_before_the_work(
    place: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    with pytest.raises(FedsimError, match=message):
        pages.check_place(place(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_page_stays_below_a_megabyte(browse: Open, tmp_path: Path) -> None:
    pages.write(record_lesson(installed_grids(QUICK), 2, lambda _done, _total: None), tmp_path / "demo.html")
    assert (tmp_path / "demo.html").stat().st_size < 1_000_000
    page = browse((tmp_path / "demo.html").as_uri())
    expect(page.locator("body")).to_have_attribute("data-ready", "yes")
    data = json.loads(page.locator("#recording").text_content() or "")
    assert {name: len(own["scenes"]) for name, own in data["sets"].items()} == {
        grid.pictures: len(grid.settings()) for grid in installed_grids(QUICK)
    }


def test_what_fills_a_template_is_escaped_unless_it_is_trusted() -> None:
    page = pages.render("words.html.j2", glossary={"<b>word": "a & b", "safe": pages.Safe("<i>meant</i>")})
    assert "<dt>&lt;b&gt;word</dt><dd>a &amp; b</dd>" in page
    assert "<dt>safe</dt><dd><i>meant</i></dd>" in page
