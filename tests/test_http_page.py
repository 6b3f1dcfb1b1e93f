"""The page in a browser: bring a subject, draw it three ways, cancel, and be told what is wrong."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFilter

from serving.contract import PictureRequest
from serving.http import HttpSettings
from tests.http_engine import WEB, FakeEngine, colour_of, picture_files, running, until, write_keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PATIENCE_MS = 60_000
SIDE = 128


class Painter(FakeEngine):
    """Draws a moon over hills, so that a person sees a picture come out of the noise."""

    def picture(self, request: PictureRequest, share: float) -> bytes:
        red, green, blue = colour_of(request)
        image = Image.new("RGB", (SIDE, SIDE), (red // 3 + 60, green // 3 + 70, blue // 3 + 110))
        draw = ImageDraw.Draw(image)
        x, y, r = 34 + red % 60, 30 + green % 26, 17
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 230, 190))
        for depth, height in enumerate((76, 92, 108)):
            hill = [(i, height + 8 * math.sin(i / (15 + 4 * depth) + blue + depth)) for i in range(0, SIDE + 4, 4)]
            shade = 1 - 0.25 * depth
            draw.polygon([*hill, (SIDE, SIDE), (0, SIDE)], fill=(int(90 * shade), int(110 * shade), int(105 * shade)))
        if share < 1:
            image = image.filter(ImageFilter.GaussianBlur(10 * (1 - share)))
            image = Image.blend(image, Image.effect_noise((SIDE, SIDE), 90).convert("RGB"), (1 - share) * 0.7)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def page_of(browser: Any, address: str, **look: Any) -> Iterator[Any]:
    """A fresh page; anything that its scripts or its policy complain of is a failure."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | look))
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if "Security Policy" in message.text else None)
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


def bring_subject(page: Any, name: str = "rex", class_word: str = "dog") -> None:
    page.get_by_role("button", name="New subject…").click()
    files = [{"name": f, "mimeType": "image/png", "buffer": content} for _, (f, content, _) in picture_files(3)]
    page.locator("#files").set_input_files(files)
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("What is it?", exact=True).fill(class_word)
    page.get_by_role("button", name="Learn").click()


def test_a_subject_is_learned_and_drawn_three_ways(browser: Any) -> None:
    engine = Painter(learn_s=0.3)
    with running(engine) as (address, _), page_of(browser, address) as page:
        page.wait_for_selector(".subject")
        page.get_by_role("button", name="New subject…").click()
        page.get_by_role("button", name="Learn").click()
        assert "pictures first" in page.inner_text("#upload-problem")
        page.get_by_role("button", name="Close").click()
        bring_subject(page)
        page.wait_for_selector('.subject:has(input[value="rex"]:checked)')
        page.get_by_label("Prompt", exact=True).fill("a watercolor painting of [V] on a beach at sunset")
        page.get_by_label("Seed", exact=True).fill("7")
        page.get_by_label("Prompt", exact=True).press("Control+Enter")
        page.locator("figure.done").nth(2).wait_for()
        assert page.locator("figure h3").all_inner_texts() == ["Base", "Subject only", "Predicted adapter"]
        asked = sorted((request for request, _ in engine.ends), key=lambda one: (one.subject or "", one.prompt_adapter))
        assert [(one.subject, one.prompt_adapter) for one in asked] == [(None, "off"), ("rex", "auto"), ("rex", "off")]
        assert (asked[0].prompt, asked[0].seed) == ("a watercolor painting of dog on a beach at sunset", 7)
        assert len({one.seed for one in asked}) == 1
        with page.expect_download() as download:
            page.locator("figure a").last.click()
        assert download.value.suggested_filename == "palp-predicted-adapter-7.png"
        page.wait_for_selector("#history .entry img")
        page.get_by_label("Prompt", exact=True).fill("something else")
        page.locator("#history .entry").first.click()
        assert page.get_by_label("Prompt", exact=True).input_value().startswith("a watercolor")
        page.mouse.click(640, 5)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Remove").click()
        page.wait_for_selector('.subject:has(input[value=""]:checked)')
        until(lambda: engine.subjects.list("") == [])


def test_on_a_dark_phone_it_is_drawn_and_cancelled(browser: Any) -> None:
    engine = Painter()
    engine.hold_at = 40
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "device_scale_factor": 2}
    with running(engine) as (address, _), page_of(browser, address, **phone) as page:
        WEB.post(f"{address}/v1/subjects", data={"name": "rex", "class_word": "dog"}, files=picture_files())
        until(lambda: engine.subjects.show("", "rex").state == "ready")
        page.reload()
        page.locator('.subject:has(input[value="rex"])').click()
        page.get_by_label("Prompt", exact=True).fill("a pencil sketch of [V] in the city")
        page.get_by_label("Steps", exact=True).fill("60")
        page.get_by_role("button", name="Generate").click()
        page.locator("figure img:not([hidden])").nth(2).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("Escape")
        page.wait_for_selector("figure.failed")
        assert page.inner_text("#status") == "Cancelled."
        assert not page.locator("#problem").is_visible()
        until(lambda: engine.busy == 0)
        assert [end for _, end in engine.ends] == ["Cancelled"] * 3
        assert page.get_by_role("button", name="Generate").is_enabled()


def test_what_is_wrong_is_said(browser: Any) -> None:
    with running(FakeEngine(step_s=0.0)) as (address, _), page_of(browser, address) as page:
        page.wait_for_selector(".subject")
        for prompt, words in (
            ("", "Say what to draw first."),
            ("a [V]", "no subject is chosen"),
            ("boom", "went wrong on our side"),
        ):
            page.get_by_label("Prompt", exact=True).fill(prompt)
            page.get_by_role("button", name="Generate").click()
            page.locator("#problem", has_text=words).wait_for()
        page.get_by_label("Prompt", exact=True).fill("a cat")
        page.get_by_label("Seed", exact=True).fill("")
        page.get_by_role("button", name="Generate").click()
        page.wait_for_selector("figure.done")
        assert not page.locator("#problem").is_visible()
        assert page.get_by_label("Seed", exact=True).input_value()  # none given: one is rolled
        bring_subject(page, class_word="nonsense")
        page.locator("#upload-problem", has_text="is not known").wait_for()
        page.get_by_label("What is it?", exact=True).fill("hopeless")
        page.get_by_role("button", name="Learn").click()
        page.wait_for_selector(".note.bad")
        assert "the loss was not finite" in page.inner_text(".note.bad")
        page.locator(".subject").last.click()
        page.get_by_role("button", name="Generate").click()
        page.locator("#problem", has_text="could not be learned").wait_for()
        WEB.delete(f"{address}/v1/subjects/rex")  # as another tab does
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Remove").click()
        page.wait_for_selector('.subject:has(input[value="rex"])', state="detached")


def test_other_tabs_and_a_server_that_stops_change_what_is_shown(browser: Any) -> None:
    engine = FakeEngine()
    with running(engine) as (address, _), page_of(browser, address) as page:
        for name in ("rex", "max", "sam", "old"):
            WEB.post(f"{address}/v1/subjects", data={"name": name, "class_word": "dog"}, files=picture_files())
            until(lambda: engine.subjects.show("", "rex").state == "ready")
            engine.subjects.learn_s = 20
        page.route("**/events", lambda route: route.fulfill(content_type="text/event-stream", body=""), times=1)
        page.reload()
        page.locator('.subject:has(input[value="rex"])').click()
        WEB.delete(f"{address}/v1/subjects/old")
        page.wait_for_selector('.subject:has(input[value="old"])', state="detached")
        engine.subjects.learn_s = 0.1
        for name in ("max", "sam"):
            page.wait_for_selector(f'.subject[data-state="ready"]:has(input[value="{name}"])')
        assert page.locator('input[value="rex"]').is_checked()
        bring_subject(page, "own")
        page.wait_for_selector('.subject:has(input[value="own"]:checked)')


def enter_key(page: Any, key: str) -> None:
    page.locator("#key").fill(key)
    page.get_by_role("button", name="Enter").click()


def test_a_key_is_asked_for_and_shows_what_is_its_own(browser: Any, tmp_path: Path) -> None:
    path, keys = write_keys(tmp_path, "ann", "bob")
    with running(FakeEngine(), HttpSettings(keys=path)) as (address, _), page_of(browser, address) as page:
        for wrong, words in (("palp-\u200b", "copy it again"), ("palp-wrong", "That key is not known.")):
            enter_key(page, wrong)
            page.locator("#key-problem", has_text=words).wait_for()
        enter_key(page, keys["ann"])
        page.wait_for_selector(".subject")
        page.get_by_label("Prompt", exact=True).fill("a secret")
        page.get_by_role("button", name="Generate").click()
        page.wait_for_selector("#history .entry")
        other = page.context.new_page()
        other.goto(address)
        other.wait_for_selector("#key-dialog[open]")
        assert other.locator("#history .entry").count() == 0
        enter_key(other, keys["bob"])
        other.wait_for_selector(".subject")
        assert other.locator("#history .entry").count() == 0
        page.reload()
        page.wait_for_selector("#history .entry")
