"""The page in a real browser: classes, drawing, completion, previews, gallery; and no error on its console."""

from __future__ import annotations

import base64
import functools
import io
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra `serve` isn't installed")
pytest.importorskip("selenium", reason="selenium isn't installed")

import uvicorn
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.runtime.server.services import open_service
from trt_vqgan.runtime.demos import demo_bundle as demo_path
from trt_vqgan.runtime.demos import example_maps
from trt_vqgan.runtime.server.app import create_app
from trt_vqgan.runtime.server.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no chromium and chromedriver on this machine", allow_module_level=True)

SCREENSHOTS = os.environ.get("TRT_VQGAN_SCREENSHOTS")
"""Folder that screenshots for the documentation are written to; none by default."""


class Page:
    """A browser on the page of a service."""

    def __init__(self, driver: webdriver.Chrome, url: str, service: Service) -> None:
        self.driver, self.url, self.service = driver, url, service

    def open(self) -> None:
        self.driver.get(self.url)
        self.wait(lambda: self("#go").is_enabled())

    def __call__(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def chip(self, text: str) -> WebElement:
        return next(chip for chip in self.all(".chips button") if chip.text == text)

    def set(self, name: str, value: object) -> None:
        field = self("#" + name)
        field.clear()
        field.send_keys(str(value))

    def wait(self, true: Callable[[], Any], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"it never happened; the page says {self('#message').text!r}"
            time.sleep(0.05)

    def generate(self) -> None:
        """Press the button, and wait for the pictures."""
        self("#go").click()
        self.wait(lambda: self("#go").is_enabled() and not self.all("figure.making"))

    def pictures(self) -> list[np.ndarray]:
        """Return the gallery's pictures, newest first."""
        urls = [image.get_attribute("src") or "" for image in self.all("figure img")]
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]

    def drag(self, selector: str, *points: tuple[float, float]) -> None:
        """Draw a line on a canvas, through points in fractions of it."""
        canvas = self(selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        size = canvas.size
        moves = [(round((x - 0.5) * size["width"]), round((y - 0.5) * size["height"])) for x, y in points]
        actions = ActionChains(self.driver, duration=20).move_to_element_with_offset(canvas, *moves[0]).click_and_hold()
        for move in moves[1:]:
            actions.move_to_element_with_offset(canvas, *move)
        actions.release().perform()

    def screenshot(self, name: str) -> None:
        """Write a picture of the page where the documentation wants it."""
        if SCREENSHOTS:
            self.driver.execute_script("window.scrollTo(0, 0)")
            data = self.driver.get_screenshot_as_png()
            image = Image.open(io.BytesIO(data)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
            image.save(Path(SCREENSHOTS) / f"{name}.png", optimize=True)

    def complaints(self) -> list[str]:
        """Return what the console holds."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
        "--force-prefers-color-scheme=light",
    ):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


@functools.cache
def _served(name: str) -> tuple[Service, uvicorn.Server, threading.Thread]:
    path = demo_path(name)
    if not path.is_file():
        pytest.skip(f"the demo {path.name} isn't in this tree")
    service = open_service(path)
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return service, server, thread


@pytest.fixture(scope="module")
def serve(driver: webdriver.Chrome) -> Iterator[Callable[[str], Page]]:
    names: list[str] = []

    def page(name: str) -> Page:
        names.append(name)
        service, server, _ = _served(name)
        port = server.servers[0].sockets[0].getsockname()[1]
        found = Page(driver, f"http://127.0.0.1:{port}/", service)
        found.open()
        return found

    yield page
    for name in set(names):
        _, server, thread = _served(name)
        server.should_exit = True
        thread.join()


def test_classes_become_pictures(serve: Callable[[str], Page]) -> None:
    page = serve("class")
    assert [chip.text for chip in page.all("#classes button")][:2] == ["mountain-lake", "green-hills"]
    page.chip("winter").click()
    for name, value in (("n", 3), ("seed", 4), ("temperature", 0.9)):
        page.set(name, value)
    page.generate()
    assert page("#message").text == "3 pictures."
    wanted = page.service.pipeline.generate(n=3, seed=4, class_id="winter", temperature=0.9).images
    for found, image in zip(page.pictures(), wanted, strict=True):
        np.testing.assert_array_equal(found, image)
    assert "winter · seed 4" in page("figcaption span").text
    page("figure button").click()
    assert page("#large").is_displayed()
    page("#large form button").click()
    for class_name in ("mountain-lake", "green-hills", "desert", "sea-sunset"):
        page.chip(class_name).click()
        page.generate()
    page.screenshot("page-class")
    assert page.complaints() == []


def test_what_is_drawn_becomes_a_picture(serve: Callable[[str], Page]) -> None:
    page = serve("segmentation")
    page.set("n", 2)
    page.chip("rock").click()
    page.driver.execute_script("const b = document.getElementById('map-brush'); b.value = 26; b.oninput({target: b})")
    page.drag("#map", (0.05, 0.55), (0.3, 0.3), (0.5, 0.5), (0.7, 0.25), (0.95, 0.55))
    page.chip("water").click()
    page.drag("#map", (0.1, 0.9), (0.5, 0.8), (0.9, 0.9))
    page.generate()
    first = page.pictures()
    assert len(first) == 2
    page.screenshot("page-drawing")
    page("#map-undo").click()
    page.generate()
    assert any((one != other).any() for one, other in zip(page.pictures()[:2], first, strict=True)), (
        "undo undid nothing"
    )
    # and exactly the pixels that were drawn
    page("#map-fill").click()
    page.generate()
    wanted = page.service.pipeline.generate(n=2, segmentation=np.full((128, 128), 2)).images
    np.testing.assert_array_equal(page.pictures()[0], wanted[0])
    assert page.complaints() == []


def test_a_map_is_sent_as_it_is(serve: Callable[[str], Page]) -> None:
    page = serve("segmentation")
    page("#tab-upload").click()
    page.set("n", 1)
    page("#go").click()
    page.wait(lambda: page("#message").text == "choose a map first")
    path = example_maps("segmentation")[0]
    page("#map-file").send_keys(str(path))
    page.generate()
    wanted = page.service.pipeline.generate(n=1, segmentation=np.asarray(Image.open(path))).images
    np.testing.assert_array_equal(page.pictures()[0], wanted[0])


def test_a_picture_is_completed(serve: Callable[[str], Page]) -> None:
    page = serve("class")
    page.set("n", 1)
    page.set("seed", 11)
    page.generate()
    before = page.pictures()[0]
    page("figcaption button").click()
    page.wait(lambda: page("#masking").is_displayed())
    page("#go").click()
    page.wait(lambda: "paint over" in page("#message").text)
    page('[data-half="right"]').click()
    page.drag("#mask", (0.2, 0.9), (0.5, 0.9))
    page.set("n", 2)
    page.set("seed", 12)
    page.chip("desert").click()
    page.generate()
    after = page.pictures()[0]
    np.testing.assert_array_equal(after[:64, :56], before[:64, :56])
    assert (after[:, 72:] != before[:, 72:]).any()
    page.screenshot("page-completion")
    assert page.complaints() == []


def test_stopping_and_mistakes(serve: Callable[[str], Page]) -> None:
    page = serve("class")
    page.driver.execute_script("document.getElementById('n').max = 1000")
    page.set("n", 65)
    page("#go").click()
    page.wait(lambda: "at most 64" in page("#message").text)
    assert "bad" in (page("#message").get_attribute("class") or "")
    page.set("n", 64)
    page("#go").click()
    page.wait(lambda: page.all("figure.making"))
    page("#stop").click()
    page.wait(lambda: page("#message").text == "Stopped.")
    page.wait(lambda: page.service.jobs == 0)
    page.driver.get(page.url + "docs")
    page.wait(lambda: len(page.all(".documentation section")) >= 7)
    assert "class" in page(".documentation table").text
