"""Take the pictures of the web page for the documentation, from the real server on the embedded base.

Use: python scripts/screenshots.py [FOLDER]     by default docs/images; needs playwright and a Chromium
Time: the learning of one subject and six pictures, about two minutes on two CPU cores.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "examples" / "subjects" / "pickup-truck"
PATIENCE_MS = 600_000
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "device_scale_factor": 2}


@contextmanager
def server(subjects: Path) -> Iterator[str]:
    """A server of its own, with its address."""
    command = [Path(sys.executable).with_name("palp-serve"), "up", "--port", "0", "--subjects", subjects]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
    finally:
        process.terminate()
        process.communicate()


def learn(page: Any) -> None:
    """Bring the example subject and wait until it is learned."""
    page.get_by_role("button", name="New subject…").click()
    page.locator("#files").set_input_files(sorted(PICTURES.glob("*.png")))
    page.get_by_label("Name", exact=True).fill("pickup")
    page.get_by_label("What is it?", exact=True).fill("truck")
    page.get_by_role("button", name="Learn").click()
    page.wait_for_selector('.subject:has(input[value="pickup"]:checked)')


def draw(page: Any, prompt: str, path: Path) -> None:
    """Draw a prompt three ways, and take the page's picture."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_role("button", name="Generate").click()
    page.locator("figure.done").nth(2).wait_for()
    page.mouse.click(5, 5)
    if page.viewport_size["width"] > 800:  # on a phone the pictures are below the form
        page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=str(path))


def main(folder: Path) -> None:
    """Both pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as subjects, server(Path(subjects)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for look, name, prompt in (
            ({"viewport": {"width": 1280, "height": 900}}, "page-light", "a watercolor painting of [V] on a beach"),
            (PHONE, "page-dark-phone", "an oil painting of [V] in a meadow"),
        ):
            page = browser.new_context(**look).new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            if name == "page-light":
                learn(page)
            page.locator('.subject:has(input[value="pickup"])').click()
            draw(page, prompt, folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
