"""The page at `/`, used as a person would: by keyboard, by dropped files and by a microphone, in headless Chromium."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import WORD, picture, sound
from components.inference.server.keys import new_key
from components.inference.server.settings import Limits, Settings
from tests.components.inference.server.small import serve

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium: make browser")
SHOTS = os.environ.get("PLAYGROUND_SHOTS")  # a folder for pictures to look at


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """With a microphone that hears a tone."""
    from playwright.sync_api import sync_playwright

    heard = tmp_path_factory.mktemp("sound") / "tone.wav"
    heard.write_bytes(sound(3.0, 16000))
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    fake = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, *fake, f"--use-file-for-fake-audio-capture={heard}"]
        )
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 800), (390, 844)], ids=["desktop", "phone"])
def page(browser: Any, server: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from opened(browser, server, *request.param)


def opened(browser: Any, server: Any, width: int, height: int) -> Iterator[Any]:
    """The page, which must neither complain in its console nor be wider than its window."""
    context = browser.new_context(viewport={"width": width, "height": height}, permissions=["microphone"])
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector("#serving li b")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.said = said
    context.close()
    assert [line for line in said if "Failed to load resource" not in line] == []


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}-{page.viewport_size['width']}.png")


def rows(server: Any) -> list[dict[str, Any]]:
    server.traffic.flush()
    return server.traffic.requests("decoder")


def test_a_chat_by_keyboard_streams_and_takes_a_thumb(page: Any, server: Any) -> None:
    assert "decoder v1.0.0" in page.inner_text("#serving")
    page.focus("#message")
    page.keyboard.type("Where is the circle?")
    shot(page, "typed")
    page.keyboard.press("Enter")
    page.wait_for_selector(".theirs .foot")
    assert page.inner_text(".mine p") == "Where is the circle?"
    assert page.inner_text(".theirs .version") == "decoder v1.0.0"
    assert page.evaluate("document.activeElement.id") == "message"
    page.keyboard.type("And the square?")
    page.keyboard.press("Enter")
    page.locator(".theirs .foot").nth(1).wait_for()
    last = rows(server)[-1]
    assert [role for role, _ in last["input"]["messages"]] == ["user", "assistant", "user"]
    page.locator(".theirs .foot button").nth(3).focus()  # thumb down, of the second answer
    page.keyboard.press("Enter")
    page.wait_for_selector(".down[aria-pressed=true]")
    server.traffic.flush()
    assert [each["thumb"] for each in server.traffic.thumbs("decoder") if each["id"] == last["id"]] == [-1]
    shot(page, "chat")


def test_a_search_by_words_shows_pictures(page: Any) -> None:
    page.fill("#words", "a red circle")
    page.press("#words", "Enter")
    page.wait_for_selector("#found .version")
    assert page.locator("#found figure img").count() == 3
    assert page.evaluate("[...document.querySelectorAll('#found figure img')].every(i => i.naturalWidth === 32)")
    page.locator("#found .foot button").first.click()
    page.wait_for_selector("#found .foot button[aria-pressed=true]")
    shot(page, "search")


def test_a_dropped_picture_finds_itself(page: Any) -> None:
    data = list(picture((40, 60, 220), 600, "JPEG"))  # larger than what is sent: the page shrinks it
    page.evaluate(
        """data => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(data)], "blue.jpg", {type: "image/jpeg"}));
        document.getElementById("search").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true}));
        }""",
        data,
    )
    page.wait_for_selector("#found .version")
    assert "blue" in page.locator("#found figcaption").first.inner_text()
    shot(page, "dropped")


def test_a_recorded_voice_is_heard(page: Any) -> None:
    page.click("#record")
    page.wait_for_selector("text=Recording 1 s")
    shot(page, "recording")
    page.click("#record")
    page.wait_for_selector("#found .heard, #found .error")
    assert re.fullmatch(f"You said: “[{WORD}]+”", page.inner_text("#found .asked"))  # of a word cut off, some letters
    assert page.inner_text("#found .version") == "search v1.0.0"
    assert page.inner_text("#found .heard") == "heard by recogniser v1.0.0"
    assert page.locator("#found figure img").count() == 3
    shot(page, "voice")


def test_a_sound_file_is_heard_and_another_file_is_refused_kindly(page: Any) -> None:
    page.set_input_files("#file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": sound(1.0, 44100, 2)})
    page.wait_for_selector("#found .version, #found .error")
    page.set_input_files("#file", {"name": "a.wav", "mimeType": "audio/wav", "buffer": sound(6.0)})
    page.wait_for_selector("text=The sound lasts 6.0 s; the model hears 4 s.")
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a"})
    page.wait_for_selector("text=notes.txt is neither a picture nor a sound.")
    shot(page, "refused")


def test_a_server_with_keys_asks_for_one(browser: Any, small: Path, tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys.json", "alice")
    settings = Settings(small / "serving", keys=tmp_path / "keys.json", pictures=small / "pictures", limits=Limits())
    with serve(settings) as server:
        for page in opened(browser, server, 390, 844):
            page.fill("#words", "red")
            page.press("#words", "Enter")
            page.wait_for_selector("#key-dialog[open]")
            shot(page, "key")
            page.keyboard.type(key)
            page.keyboard.press("Enter")
            page.press("#words", "Enter")
            page.wait_for_selector("#found .version")
            assert page.locator("#found figure img").count() == 3
            assert key not in page.content()
