"""The report in a real browser: quiet, whole, touchable, and narrow where the screen is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, sync_playwright

from orchestrator.report import main
from orchestrator.reporting.build import write_report
from tests.installed import program
from tests.orchestrator_tests.report_folders import (
    count_out,
    make_rows,
    mixed_rows,
    write_curves,
    write_pruning,
    write_starts,
    write_study,
)

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BOXES = "[...document.querySelectorAll('.scroll, .panels')]"
WIDE_IS_TOLD = f"""{BOXES}.every((b) => (b.scrollWidth > b.clientWidth + 1)
  === getComputedStyle(b, "::before").content.startsWith('"Scroll sideways'))"""
FIGURES = {
    *("before-after", "marginals", "importance", "variance", "surfaces-all", "front", "flagged"),
    *("unlearning", "relearning", "selection-report"),
}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    chromium = program("chromium", "chromium")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=chromium, args=FLAGS
        )
        yield context
        context.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = mixed_rows()
    counts = count_out(rows)
    folder = write_study(tmp_path_factory.mktemp("study") / "mixed", rows)
    pd.DataFrame(counts).to_parquet(folder / "confusion.parquet")
    write_pruning(folder, "badnets, digits")
    write_curves(folder, rows)
    write_starts(folder)
    return write_report(folder)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studies")
    one = write_study(place / "one", make_rows(seeds=(0, 1)))
    two = write_study(place / "two", make_rows(seeds=(1, 2)))
    assert main([str(one), str(two), "--out", str(place / "page.html")]) == 0
    return place / "page.html"


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    yield page
    page.close()


class Watch:
    """What a page says on its console, and what it asks for besides itself."""

    def __init__(self, page: Page, path: Path) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())
        self.asked = [url for url in self.asked if url != path.as_uri() and url[:5] != "data:"]


def overflow(page: Page) -> list[str]:
    """Return what reaches beyond the right edge, scrolling boxes and what is in them aside."""
    found: list[str] = page.evaluate(
        """() => [...document.body.querySelectorAll("*")].filter((e) => {
             const box = e.getBoundingClientRect();
             const inside = e.parentElement.closest(".scroll, .panels, pre");
             return box.width && box.right > innerWidth + 1 && !inside;
           }).map((e) => e.outerHTML.slice(0, 80))"""
    )
    wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return [*found, *(["the page itself"] if wide else [])]


def bring(mark: Locator) -> None:
    """Scroll to a mark, and wait until the page has heard of it: scrolling hides what is told."""
    mark.scroll_into_view_if_needed()
    frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    mark.page.evaluate(frames)


@pytest.mark.parametrize("which", ["study", "comparison"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_quietly_and_asks_for_nothing(
    page: Page, request: pytest.FixtureRequest, which: str, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    watch = Watch(page, request.getfixturevalue(which))
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert watch.said == []
    assert watch.asked == []
    assert overflow(page) == []


@pytest.mark.parametrize("which", ["study", "comparison"])
def test_on_a_phone_the_answer_comes_first(
    page: Page, request: pytest.FixtureRequest, which: str
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    Watch(page, request.getfixturevalue(which))
    answer = page.locator(".answer").bounding_box()
    assert answer is not None
    assert answer["y"] < 844 / 2
    before = page.evaluate(
        """[...document.querySelectorAll("table, svg, nav, dl")].filter(
             (e) => e.compareDocumentPosition(document.querySelector(".answer")) & 4).length"""
    )
    assert before == 0


def test_what_is_too_wide_says_that_it_scrolls(page: Page, study: Path) -> None:
    table = "document.querySelector('.scroll')"
    for width, fits in ((1280, True), (390, False)):
        page.set_viewport_size({"width": width, "height": 844})
        Watch(page, study)
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        page.wait_for_function(WIDE_IS_TOLD)
        assert page.evaluate(f"{table}.classList.contains('wide')") is not fits
    page.emulate_media(media="print")
    assert page.evaluate(f"getComputedStyle({table}, '::before').display") == "none"
    page.emulate_media(media="screen")


def test_the_policy_stops_what_is_not_the_pages_own(page: Page, study: Path) -> None:
    watch = Watch(page, study)
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'taken'";
          document.body.append(script);
          const image = new Image();
          image.src = "http://127.0.0.1:9/x.png";
          document.body.append(image);
        }"""
    )
    page.wait_for_function("true")
    assert page.title() == "sensitivity-made-up: ULRL study"
    assert len([text for text in watch.said if "Content Security Policy" in text]) >= 2


def test_every_figure_is_drawn(page: Page, study: Path) -> None:
    Watch(page, study)
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    drawn: list[dict[str, Any]] = page.evaluate(
        """() => [...document.querySelectorAll("figure")].map((f) => ({
             name: f.id.slice(7),
             panels: [...f.querySelectorAll("svg")].map((s) => {
               const seen = [...s.querySelectorAll("rect,circle,polyline,polygon,path,text")];
               return [s.getBoundingClientRect().width, seen.filter(
                 (e) => e.getBoundingClientRect().width + e.getBoundingClientRect().height > 0
               ).length];
             }),
           }))"""
    )
    on_disk = {path.stem for path in (study.parent / "figures").glob("*.svg")}
    assert {figure["name"] for figure in drawn} == on_disk
    assert on_disk >= FIGURES
    assert len([name for name in on_disk if name.startswith("classes-")]) == 12
    for figure in drawn:
        assert figure["panels"], figure["name"]
        for width, shapes in figure["panels"]:
            assert width > 100, figure["name"]
            empty = figure["name"] == "marginals"  # beside the second axis stands no legend
            assert shapes > 2 or empty, figure["name"]


@pytest.mark.parametrize("touch", [False, True])
def test_pointing_at_a_mark_tells_its_details(page: Page, study: Path, *, touch: bool) -> None:
    Watch(page, study)
    mark = page.locator("#figure-front [data-tip*='blended(alpha=0.1) · digits']").first
    bring(mark)
    assert page.locator("#tip").is_hidden()
    told = mark.get_attribute("data-tip")
    mark.dispatch_event(
        "pointerdown" if touch else "pointermove",
        {"clientX": 1000, "clientY": 500, "bubbles": True},
    )
    assert page.locator("#tip").is_visible()
    text = page.locator("#tip").inner_text()
    assert text == told
    assert text.splitlines()[1].startswith("unlearn_threshold=")
    assert "ACC " in text
    assert "DER " in text
    page.locator("h1").dispatch_event("pointermove", {"clientX": 5, "clientY": 5, "bubbles": True})
    assert page.locator("#tip").is_hidden()


def test_light_and_dark(page: Page, study: Path) -> None:
    page.emulate_media(color_scheme="light")
    Watch(page, study)
    colour = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('#front svg text')).fill"
    light = page.evaluate(colour), page.evaluate(ink)
    page.locator("#theme").click()
    dark = page.evaluate(colour), page.evaluate(ink)
    page.locator("#theme").click()
    assert (page.evaluate(colour), page.evaluate(ink)) == light
    page.emulate_media(color_scheme="dark")
    assert (page.evaluate(colour), page.evaluate(ink)) == light  # chosen by hand
    assert light == ("rgb(253, 253, 252)", "rgb(29, 31, 34)")
    assert dark == ("rgb(22, 24, 27)", "rgb(228, 228, 225)")
    page.reload()
    assert (page.evaluate(colour), page.evaluate(ink)) == dark  # as the system says


def test_it_prints_on_white_with_nothing_folded(page: Page, study: Path) -> None:
    page.emulate_media(color_scheme="dark")
    Watch(page, study)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#theme").is_hidden()
    assert page.evaluate("[...document.querySelectorAll('details')].every((d) => d.open)")
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    bars = "[...document.querySelectorAll('.bar')].map((b) => getComputedStyle(b).printColorAdjust)"
    assert page.evaluate(bars) == ["exact"] * 2, "else browsers print no backgrounds"
    page.set_viewport_size({"width": 680, "height": 960})  # what A4 leaves between margins
    assert page.evaluate("document.documentElement.scrollWidth") == 680
    page.emulate_media(media="screen")
