"""The live page: drawing in a browser, several viewers, and everything that a server must refuse."""

import html
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from fedsim.core.errors import FedsimError
from fedsim.demo.live import LARGEST_BODY, Full, LiveServer, Turns, address_of, own_address
from fedsim.demo.messages import messages
from tests.demo.conftest import Open
from tests.demo.drawings import ORDER, STROKES
from tests.demo.serving import posted, serving

Ask = Callable[..., tuple[int, str, dict[str, str]]]


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with serving(iterations=20) as running:
        yield running


@pytest.fixture
def ask(server: LiveServer) -> Ask:
    def asked(
        method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, dict(answer.getheaders())

    return asked


def told(stream: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for part in stream.strip().split("\n\n"):
        event, data = part.split("\n")
        found.append((event.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_an_attack_is_streamed_from_closed_form_to_the_end_of_the_search(ask: Ask) -> None:
    status, text, headers = ask("POST", "/attack", json.dumps(ORDER).encode())
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    events = told(text)
    assert [event for event, _ in events if event != "step"] == ["started", "result", "result", "end"]
    (exact, search) = (about for event, about in events if event == "result")
    assert (exact["attacker"], search["attacker"]) == ("exact", "estimates")
    assert exact["psnr"] > 100
    assert exact["pixels"] == STROKES
    assert (exact["agreement"], search["iterations"]) == (1.0, 20)
    steps = [about for event, about in events if event == "step"]
    assert steps[0]["iteration"] == 1
    assert all(len(about["pixels"]) == 784 for about in steps)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": [0] * 783}, "pixels: "),
        ({"pixels": [256] * 784}, "pixels.0: "),
        ({"label": 10}, "label: "),
        ({"attacker": "<script>"}, "attacker: "),
        ({"setting": {"rate": 1.0}}, "setting.rate: "),
        ({"setting": {"noise": -1}}, "setting.noise: "),
        ({"stranger": 1}, "stranger: "),
    ],
)
def test_bad_input_is_refused_in_one_sentence(ask: Ask, change: dict[str, Any], message: str) -> None:
    status, text, headers = ask("POST", "/attack", json.dumps({**ORDER, **change}).encode())
    assert status == 400
    assert text.startswith(message)
    assert text.count("\n") == 1
    assert "<script>" not in text
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"pixels": NaN}'])
def test_a_body_that_is_no_order_is_refused(ask: Ask, body: bytes) -> None:
    assert ask("POST", "/attack", body)[0] == 400


def test_the_size_of_a_body_is_limited_and_must_be_stated(ask: Ask) -> None:
    assert ask("POST", "/attack", b" " * (LARGEST_BODY + 1))[0] == 413
    assert ask("POST", "/attack", None, {"Content-Length": "a lot"})[0] == 411
    assert ask("POST", "/attack", None, {"Content-Length": "-1"})[0] == 411


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/attack")])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "localhost.evil.example"])
def test_a_name_that_was_bound_to_this_machine_gets_nothing(ask: Ask, method: str, path: str, host: str) -> None:
    body = json.dumps(ORDER).encode() if method == "POST" else None
    status, text, _ = ask(method, path, body, {"Host": host})
    assert status == 403
    assert "only" in text


def test_a_foreign_page_cannot_start_an_attack(ask: Ask, server: LiveServer) -> None:
    body = json.dumps({**ORDER, "attacker": "exact"}).encode()
    assert ask("POST", "/attack", body, {"Origin": "http://evil.example"})[0] == 403
    assert ask("POST", "/attack", body, {"Origin": "null"})[0] == 403
    assert ask("POST", "/attack", body, {"Origin": f"http://localhost:{server.server_port}"})[0] == 200


@pytest.mark.parametrize("path", ["/nothing", "/../pyproject.toml", "/live.py", "/attack"])
def test_only_the_page_and_its_three_files_are_served(ask: Ask, path: str) -> None:
    assert ask("GET", path)[0] == 404
    assert ask("POST", "/", b"{}")[0] == 404


def test_the_page_of_words_is_served(ask: Ask) -> None:
    status, body, _ = ask("GET", "/words.html")
    assert status == 200
    assert "<dt>victim</dt>" in body


def test_every_answer_carries_the_policy(ask: Ask) -> None:
    for path in ("/", "/style.css", "/live.js", "/nothing"):
        headers = ask("GET", path)[2]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]


def test_it_listens_to_this_machine_alone_and_names_a_port_that_is_taken(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(FedsimError, match=f"cannot listen on 127.0.0.1, port {server.server_port}.*--port"):
        LiveServer(server.server_port)


def test_a_room_is_served_under_the_address_that_was_asked_for_and_no_other_name(ask: Ask) -> None:
    with LiveServer(0, iterations=1, host="127.0.0.2") as running:
        assert running.server_address[0] == "127.0.0.2"
        assert running.url == f"http://127.0.0.2:{running.server_port}/"
        assert running.hosts == {f"127.0.0.2:{running.server_port}"}
        assert b'data-t="live.shared"' in running.files["/"][1]
    assert 'data-t="live.here"' in ask("GET", "/")[1]


def test_a_server_for_all_addresses_names_the_one_of_the_network() -> None:
    with LiveServer(0, iterations=1, host="0.0.0.0") as running:
        port = running.server_port
        assert running.hosts == {f"{name}:{port}" for name in (own_address(), "127.0.0.1", "localhost")}
        assert running.url == f"http://{own_address()}:{port}/"


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(FedsimError, match=r"cannot listen on 192\.0\.2\.1, port 0"):
        LiveServer(0, host="192.0.2.1")


def test_the_page_begins_in_the_language_that_was_asked_for() -> None:
    with LiveServer(0, iterations=1, language="fr") as running:
        page = running.files["/"][1].decode()
    assert '<html lang="fr"' in page
    assert messages("fr")["live.title"] in html.unescape(page)


def test_turns_go_to_those_who_came_first_and_others_are_told_their_place() -> None:
    turns, order = Turns(), list[str]()
    told: dict[str, list[int]] = {"a": [], "b": []}
    waiting = {"a": threading.Event(), "b": threading.Event()}

    def viewer(name: str) -> None:
        def on_wait(place: int) -> None:
            told[name].append(place)
            waiting[name].set()

        with turns.hold(on_wait):
            order.append(name)

    threads = [threading.Thread(target=viewer, args=(name,)) for name in "ab"]
    with turns.hold(lambda _place: None):
        for thread, event in zip(threads, waiting.values(), strict=True):
            thread.start()
            assert event.wait(60)
        assert order == []
    for thread in threads:
        thread.join(60)
    assert order == ["a", "b"]
    assert (told["a"][0], told["b"][0]) == (1, 2)


def test_a_viewer_who_leaves_the_queue_gives_up_his_place() -> None:
    turns = Turns()

    def leave(_place: int) -> None:
        raise BrokenPipeError

    with turns.hold(lambda _place: None), pytest.raises(BrokenPipeError), turns.hold(leave):
        pass
    with turns.hold(leave):
        pass


def test_an_attack_that_fails_ends_its_turn_and_a_long_queue_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.hold(lambda _place: None):
        raise ZeroDivisionError
    monkeypatch.setattr("fedsim.demo.live._LONGEST_QUEUE", 0)
    with pytest.raises(Full), turns.hold(lambda _place: None):
        pass


def test_a_viewer_who_leaves_ends_his_attack() -> None:
    with serving(iterations=1_000_000) as server:
        answer = posted(server, {**ORDER, "setting": {"protection": "noise"}})
        assert answer.readline() == b"event: started\n"
        answer.close()
        assert posted(server, {**ORDER, "attacker": "exact"}).read().endswith(b"event: end\ndata: {}\n\n")


def phase(page: Page, name: str) -> None:
    expect(page.locator("body")).to_have_attribute("data-phase", name)


def draw(page: Page) -> None:
    box = page.locator("#drawing").bounding_box()
    corners = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]
    (x, y), *rest = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in corners]
    page.mouse.move(x, y)
    page.mouse.down()
    for x, y in rest:
        page.mouse.move(x, y, steps=5)
    page.mouse.up()


@pytest.fixture
def page(browse: Open, server: LiveServer) -> Page:
    opened = browse(server.url)
    phase(opened, "idle")
    return opened


def test_the_label_follows_the_drawing_until_the_viewer_chooses_one(page: Page) -> None:
    page.evaluate("guessDigit = () => 4")
    draw(page)
    phase(page, "done")
    expect(page.locator("#label")).to_have_value("4")
    page.select_option("#label", "2")
    page.evaluate("guessDigit = () => 5")
    draw(page)
    phase(page, "done")
    expect(page.locator("#label")).to_have_value("2")
    page.click("#clear")
    draw(page)
    phase(page, "done")
    expect(page.locator("#label")).to_have_value("5")


def test_the_language_can_be_switched_while_a_result_is_shown(page: Page) -> None:
    draw(page)
    phase(page, "done")
    page.select_option("#language", "de")
    expect(page.locator("#status")).to_have_text(messages("de")["live.done"])
    expect(page.locator("#psnr-text")).to_contain_text("Der Angreifer sieht diese Kurve nicht.")
    expect(page.locator("#exact-text")).to_contain_text("closed-form-linear")


def test_a_drawing_is_recovered_while_one_watches(page: Page) -> None:
    page.select_option("#label", "7")
    draw(page)
    phase(page, "done")
    expect(page.locator("#exact-text")).to_contain_text("closed-form-linear")
    expect(page.locator("#search-text")).to_contain_text("dropout-inversion")
    expect(page.locator("#search-text")).to_contain_text("Masks right")
    held, exact = (page.evaluate("id => document.getElementById(id).toDataURL()", name) for name in ("held", "exact"))
    assert held == exact
    assert page.locator("#psnr polyline").count() == page.locator("#objective polyline").count() == 1
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size[0] <= 1024
    assert size[1] <= 768


@pytest.mark.slow
def test_every_control_starts_the_attack_anew(page: Page) -> None:
    draw(page)
    phase(page, "done")
    for change in (
        lambda: page.check("[value=knows]"),
        lambda: page.check("[value=noise]"),
        lambda: page.locator("#rate").press("ArrowRight"),
        lambda: page.locator("#noise").press("ArrowRight"),
        lambda: page.select_option("#label", "2"),
        lambda: page.click("#again"),
    ):
        with page.expect_request(lambda request: request.method == "POST") as sent:
            change()
        phase(page, "done")
    order = json.loads(sent.value.post_data or "")
    assert (order["label"], order["attacker"]) == (2, "knows")
    assert order["setting"] == {"rate": 0.55, "protection": "noise", "noise": 3.2}
    page.click("#clear")
    phase(page, "idle")
    page.click("#again")
    phase(page, "idle")


def test_an_image_is_dropped_or_chosen_and_other_files_are_refused(page: Page, browse: Open) -> None:
    drop = """async (text) => {
        const c = Object.assign(document.createElement('canvas'), { width: 60, height: 40 });
        c.getContext('2d').fillStyle = '#fff'; c.getContext('2d').fillRect(20, 5, 10, 30);
        const blob = text ? new Blob([text]) : await new Promise((done) => c.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([blob], 'digit.png'));
        const event = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
        document.getElementById('drawing').dispatchEvent(event);
    }"""
    page.evaluate(drop, "")
    phase(page, "done")
    expect(page.locator("#exact-text")).to_contain_text("160.0 dB")
    page.evaluate(drop, "no image")
    phase(page, "failed")
    expect(page.locator("#status")).to_have_text("The browser cannot read this file as an image.")
    with page.expect_file_chooser():
        page.click("#open")


def test_a_second_viewer_is_told_to_wait_and_then_served(page: Page, server: LiveServer) -> None:
    with server.turns.hold(lambda _place: None):
        draw(page)
        phase(page, "waiting")
        expect(page.locator("#status")).to_contain_text("Your place in the queue: 1.")
    phase(page, "done")


def test_an_address_is_itself_and_all_of_them_are_that_of_the_network() -> None:
    assert address_of("127.0.0.1") == "127.0.0.1"
    assert address_of("0.0.0.0") == own_address() != "0.0.0.0"
    IPv4Address(own_address())


@pytest.mark.parametrize("host", ["evil.example", "", "1.2.3", "::1", "1.2.3.4:80"])
def test_what_is_no_address_is_named(host: str) -> None:
    with pytest.raises(FedsimError, match=r"expected an address of this machine, such as 192\.168\.1\.5"):
        address_of(host)


def test_a_machine_without_network_is_reached_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alone(socket.socket):
        def connect(self, _address: Any) -> None:
            raise OSError

    monkeypatch.setattr(socket, "socket", Alone)
    assert own_address() == "127.0.0.1"
