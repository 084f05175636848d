"""`fedsim demo` as a person types it: which demo, where to, and how the live one ends."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "fedsim.cli", "demo"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say which demo"),
        (("--live", "--terminal"), "say which demo"),
        (("--out", "missing/demo.html"), "there is no folder missing"),
        (("--live", "--port", "70000"), "70000"),
        (("--live", "--host", "evil.example"), "expected an address of this machine"),
        (("--terminal", "--host", "0.0.0.0"), "--host belongs to --live"),
        (("--terminal", "--language", "xx"), "Known: en, de, fr"),
    ],
)
def test_a_mistake_is_one_clear_sentence(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_live_demo_says_where_it_is_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--live", "--port", "0"], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert found is not None
        with urllib.request.urlopen(found[0], timeout=60) as answer:
            assert b"Draw a digit" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_room_gets_a_warning_and_a_code_to_scan(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--live", "--port", "0", "--host", "127.0.0.2", "--language", "fr"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.2:\d+/", process.stdout.readline())
            assert found is not None
            told = [process.stdout.readline() for _ in range(4)]
            assert told[0].startswith("Warning: everybody in this network")
            assert "unencrypted" in told[1]
            assert "█" in told[2] or told[2].startswith("No code to scan: segno")
            with urllib.request.urlopen(found[0], timeout=60) as answer:
                assert b'lang="fr"' in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_ctrl_c_ends_it_in_peace_while_an_attack_runs(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--live", "--port", "0"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found is not None
            order = {"pixels": [255 * (pixel % 28 == 14) for pixel in range(784)], "label": 1}
            request = urllib.request.Request(f"{found[0]}attack", json.dumps(order).encode())
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert b"event: step\n" in iter(answer.readline, b"")
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()
