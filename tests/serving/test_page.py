"""The page in a real browser: a picture appears step by step, and what goes wrong is told in words."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from caller import TOKENS, Caller, Start, until

from ptq_export.engines.base import Engine
from ptq_export.serving.batcher import Batcher, measured_times
from ptq_export.serving.service import Service

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation")]
playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        path = CHROMIUM or started.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(slow_engine: Engine, start: Start) -> tuple[Service, Caller]:
    return start(slow_engine)


@pytest.fixture
def page(browser: Any, served: tuple[Service, Caller]) -> Iterator[Any]:
    """The page, what the engine takes filled in; nothing may reach its console."""
    heard: list[str] = []
    page = browser.new_page(viewport=PHONE)
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(f"http://127.0.0.1:{served[1].port}/")
    page.locator("#draw:enabled").wait_for()
    page.get_by_label("Conditions").fill(json.dumps(TOKENS))
    page.get_by_label("Seed").fill("9223372036854775807")  # no number of JavaScript's
    yield page
    page.close()
    assert heard == []


def finished(page: Any) -> None:
    page.get_by_text("Finished.").wait_for(timeout=20_000)


def test_a_picture_appears_step_by_step_and_is_the_services_own(page: Any, served: tuple[Service, Caller]) -> None:
    page.get_by_label("Steps").fill("30")
    page.get_by_label("Class", exact=True).fill("2")
    page.get_by_label("Sampler").select_option("euler")
    page.get_by_role("button", name="Draw").click()
    seen, image = set(), page.locator("figure img")
    image.wait_for()
    while page.locator("#status").inner_text() != "Finished.":
        seen.add(image.get_attribute("src"))
    assert len(seen) > 3
    fields = {"seed": 2**63 - 1, "steps": 30, "class": 2, "sampler": "euler"}
    wanted = served[1].generate(**fields, response_format="png").body
    assert base64.b64decode(image.get_attribute("src").partition(",")[2]) == wanted
    assert "ms per step" in page.locator("figcaption").inner_text()


def test_guidance_is_away_from_a_class(page: Any, served: tuple[Service, Caller]) -> None:
    for name, value in {"Steps": "5", "Guidance": "3.5", "Away from class": "0"}.items():
        page.get_by_label(name).fill(value)
    page.get_by_label("Class", exact=True).fill("1")
    page.get_by_role("button", name="Draw").click()
    finished(page)
    fields = {"seed": 2**63 - 1, "steps": 5, "class": 1, "guidance": 3.5, "unconditional": {"label": 0}}
    wanted = served[1].generate(**fields, response_format="png").body
    assert base64.b64decode(page.locator("img").get_attribute("src").partition(",")[2]) == wanted


@pytest.mark.parametrize(
    ("label", "value", "told"),
    [
        ("Conditions", "{", "Conditions is no JSON"),
        ("Conditions", "{}", "tokens .* is missing"),
        ("Guidance", "2", "Guidance wants what it takes away"),
        ("Seed", "9223372036854775808", "Seed must be an integer in 0"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_words(page: Any, label: str, value: str, told: str) -> None:
    page.get_by_label(label).fill(value)
    page.get_by_role("button", name="Draw").click()
    playwright.expect(page.get_by_role("alert")).to_have_text(re.compile(told))
    playwright.expect(page.get_by_role("button", name="Draw")).to_be_enabled()


def test_a_stopped_picture_frees_its_place(page: Any, served: tuple[Service, Caller]) -> None:
    page.get_by_label("Steps").fill("500")
    page.get_by_role("button", name="Draw").click()
    page.locator("figure img").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    assert until(lambda: served[0].models["tiny"].batcher.accepted == 0)


def test_a_service_that_ends_is_told(page: Any, served: tuple[Service, Caller]) -> None:
    served[0].draining = True
    page.get_by_role("button", name="Draw").click()
    playwright.expect(page.get_by_role("alert")).to_have_text("The service is ending")


def test_engines_stand_side_by_side_from_one_seed(
    browser: Any, engine: Engine, slow_engine: Engine, start: Start
) -> None:
    service, caller = start(slow_engine)
    first = service.models["tiny"]
    times = measured_times(engine, 8)
    other = Batcher(engine, first.subject.schedule, times, 8, 8)
    other.observer = service.metrics.watch("tiny:fp32", lambda: other.waiting, lambda: other.running)
    service.models = {"tiny": first, "tiny:fp32": replace(first, name="tiny:fp32", batcher=other)}
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{caller.port}/")
    page.get_by_label("Conditions").fill(json.dumps(TOKENS))
    page.get_by_label("side by side").check()
    page.get_by_role("button", name="Draw").click()
    finished(page)
    images, captions = page.locator("figure img"), page.locator("figcaption").all_inner_texts()
    assert images.nth(0).get_attribute("src") == images.nth(1).get_attribute("src"), "one network, one seed"
    slow, quick = (float(text.split(", ")[1].split()[0]) for text in captions)
    assert slow > 20 > quick, captions
    page.close()


def test_the_page_fits_a_phone_and_names_every_field(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for field in page.locator("input:visible, select:visible, textarea:visible").all():
        assert field.evaluate("field => field.labels.length") == 1
    assert not page.locator("#model").is_visible(), "there is one"
