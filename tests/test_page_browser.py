"""The pages of a board in a browser: desk and phone, light and dark, with keys alone, without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from boarded import EVIL, PUBLISHED, first_right, published, record, with_outcomes, write
from PIL import Image

for _needed in ("jinja2", "plotly", "playwright.sync_api"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed")

from playwright.sync_api import expect, sync_playwright  # noqa: E402

from robustbench_med.studies.board import html_board  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync"),
)
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
expect.set_options(timeout=30_000)
ROWS = len(published()) + 4
SECONDS = 2.0  # in which 1,000 rows are to open


def executable() -> str | None:
    """A Chromium of this machine, or the one that ROBMED_BROWSER names."""
    chosen = os.environ.get("ROBMED_BROWSER")
    return chosen or next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = executable()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed, and ROBMED_BROWSER names none")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=list(QUIET))
        yield started
        started.close()


class Visit:
    """A page, and everything that a quiet one does not do."""

    def __init__(self, browser: Browser, size: str = "desk", scheme: Any = "light") -> None:
        wide, high = SIZES[size]
        self.context = browser.new_context(viewport={"width": wide, "height": high}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.noise: list[str] = []
        self.page.on("console", lambda message: self.noise.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.noise.append(f"error: {error}"))
        self.page.on("dialog", self._asked)
        self.page.on("requestfailed", self._failed)
        self.page.on("request", self._requested)

    def _asked(self, dialog: Dialog) -> None:
        self.noise.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.noise.append(f"network: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # of a page that was left while a figure was on its way
            self.noise.append(f"failed: {request.url} {request.failure}")

    def open(self, path: Path) -> Page:
        self.page.goto(path.as_uri())
        return self.page

    def draw_all(self) -> None:
        for figure in self.page.query_selector_all("figure.chart"):
            if figure.is_visible():
                figure.scroll_into_view_if_needed()
                figure.wait_for_selector(".plot .main-svg")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert not self.noise, self.noise


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All published records, and others with what those lack: outcomes, a curve, modalities, pictures."""
    folder = tmp_path_factory.mktemp("given")
    ours = [with_outcomes(record(f"r{n}", f"net-{n}"), first_right(n)) for n in (100, 98, 60)]
    ours.append(with_outcomes(record("r9", f"net{EVIL}", "unaudited"), first_right(150)))
    for each in ours:
        each["dataset"]["fingerprint"] = "other samples"
    ours[0]["dataset"]["modalities"]["mr"]["kind"] = "table"
    write(folder, *ours)
    Image.new("RGB", (900, 400), "white").save(folder / "r100.png")
    stored = ours[0]["accuracy"]["lesion"]["robust"]
    curve: dict[str, Any] = {
        "title": f"net{EVIL}",
        "norm": "linf",
        "of": "mr",
        "radii": [0.0, 1 / 255, 4 / 255],
    }
    curve |= {"accuracy": {"lesion": [stored] * 3}, "headline": "lesion", "area": 0.4, "median": [0.0, None]}
    (folder / "curve.json").write_text(json.dumps(curve | {"runs": ["r98", "r100"]}))
    situation = {"kind": "attacked", "modalities": ["mr"], "goal": "any", "accuracy": {"lesion": stored}}
    table = {"title": "net-100 on phantom", "rows": [situation | {"run": "r100"}], "leakage": {}}
    (folder / "modalities.json").write_text(json.dumps(table))
    return html_board([PUBLISHED, folder], tmp_path_factory.mktemp("out") / "board").index


def shown(page: Page) -> int:
    return page.locator("section.board tr[data-standing]:visible").count()


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        ("desk", "light"),
        ("phone", "dark"),
        pytest.param("desk", "dark", marks=pytest.mark.slow),
        pytest.param("phone", "light", marks=pytest.mark.slow),
    ],
)
def test_quiet_and_within_the_window(browser: Browser, board: Path, size: str, scheme: str) -> None:
    for path in (board, board.parent / "run" / "r100.html", board.parent / "run" / "r9.html"):
        with Visit(browser, size, scheme) as visit:
            page = visit.open(path)
            visit.draw_all()
            wide = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert wide[0] <= wide[1], f"{path.name} scrolls sideways"
            cut = page.evaluate(
                "[...document.querySelectorAll('table, img, svg.bar')].filter(e => "
                "e.getBoundingClientRect().right > innerWidth && !e.closest('.scroll')).length"
            )
            assert cut == 0
            assert page.locator("figure.chart .main-svg").count() > 0 or path.name == "r9.html"


CONTRAST = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const back = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    const hidden = e.closest("svg, script, .sr, .skip") || !e.checkVisibility();
    if (hidden || !walk.currentNode.textContent.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(back(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${e.className}: ${e.textContent.slice(0, 30)}`);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser: Browser, board: Path, scheme: str) -> None:
    """At least 4.5 to 1 for every text (WCAG 2.2, AA)."""
    backs = set()
    for path in (board, board.parent / "run" / "r100.html"):
        with Visit(browser, "desk", scheme) as visit:
            page = visit.open(path)
            assert page.evaluate(CONTRAST) == []
            backs.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backs == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 23, 27)"}


def test_sorting_keeps_what_is_not_ranked_below(browser: Browser, board: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(board)
        section = page.locator("section.board", has=page.locator("text=net-100")).first
        header = section.get_by_role("columnheader", name="Robust %")
        values = """e => [...e.querySelectorAll("tbody:not(.heading)")].map(
            (body) => [...body.rows].map((row) => +row.cells[2].dataset.value))"""
        assert header.get_attribute("aria-sort") is None
        for order in ("descending", "ascending"):
            header.get_by_role("button").click()
            assert header.get_attribute("aria-sort") == order
            for body in section.locator("table").evaluate(values):
                assert body == sorted(body, reverse=order == "descending")
            assert f"Sorted by Robust %, {order}." in page.get_by_role("status").inner_text()
        assert section.get_by_role("columnheader", name="Rank").get_attribute("aria-sort") is None
        section.get_by_role("columnheader", name="Model").get_by_role("button").click()
        names = section.locator("tbody").first.locator("th").evaluate_all("e => e.map(h => h.dataset.value)")
        assert names == ["net-60", "net-98", "net-100"]  # by the numbers within words


def test_filters_and_search(browser: Browser, board: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(board)
        everything = shown(page)
        assert everything == ROWS
        assert page.get_by_role("status").inner_text() == f"{ROWS} runs."
        for label, value in {
            "Data set": "mri-ct",
            "Attack": "pgd",
            "Kind of net": "random",
            "Standing": "unaudited",
            "Kind of data": "table + image",
            "Defense": "none",
        }.items():
            page.get_by_label(label, exact=True).select_option(value)
            assert 0 < shown(page) < everything, label
            assert f"{shown(page)} of {ROWS} runs shown." in page.get_by_role("status").inner_text()
            page.get_by_role("button", name="Show all").click()
            expect(page.get_by_role("status")).to_have_text(f"{ROWS} runs.")
        threat = page.get_by_label("Threat model").locator("option").nth(1).inner_text()
        page.get_by_label("Threat model").select_option(threat)
        assert page.locator("section.board:visible .threat").first.inner_text().startswith(threat)
        page.get_by_role("button", name="Show all").click()
        page.get_by_label("Search").fill("net-98")
        assert shown(page) == 1
        assert page.locator("nav li:visible").count() <= 3  # links to what is empty go away
        page.get_by_label("Search").fill("no such net")
        assert shown(page) == 0


def test_with_keys_alone(browser: Browser, board: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(board)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "f-text"
        for _ in range(40):
            page.keyboard.press("Tab")
            outline, name = page.evaluate(
                """[getComputedStyle(document.activeElement).outlineStyle,
                    document.activeElement.tagName + " " + document.activeElement.textContent.trim()]"""
            )
            assert outline == "solid", name  # focus is seen
            if name.startswith("BUTTON Robust"):
                break
        page.keyboard.press("Space")
        assert page.locator("th[aria-sort=descending]").first.inner_text().startswith("Robust")
        page.locator("section.board tbody a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/run/*.html")
        assert page.get_by_role("heading", level=1).count() == 1


def test_names_for_those_who_do_not_see_it(browser: Browser, board: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(board)
        assert page.get_by_role("main").count() == page.get_by_role("heading", level=1).count() == 1
        assert page.get_by_role("navigation", name="Boards").count() == 1
        assert page.get_by_role("form", name="Filter the runs").count() == 1
        for field in page.locator("input:visible, select:visible").all():
            assert field.evaluate("e => e.labels.length") == 1
        for table in page.locator("section.board:visible table").all():
            assert table.evaluate("e => e.caption.textContent.length") > 10
            assert table.get_by_role("rowheader").count() >= table.locator("tr[data-standing]").count() > 0
        for region in page.locator(".scroll:visible").all():
            assert region.get_attribute("tabindex") == "0"
            assert region.get_attribute("aria-label")
        plot = page.get_by_role("img", name="Clean against robust accuracy on").first
        page.locator("figure.chart").first.scroll_into_view_if_needed()
        expect(plot).to_be_visible()
        assert (
            page.get_by_role("cell", name="1 = (shared)").count() + page.get_by_text("(shared)").count() > 0
        )
        levels = page.locator("h1, h2, h3").evaluate_all("e => e.map(h => +h.tagName[1])")
        assert all(b - a <= 1 for a, b in pairwise(levels))
        page = visit.open(board.parent / "run" / "r100.html")
        assert "magnified" in str(page.get_by_role("img", name="Samples of").get_attribute("alt"))
        assert page.locator("[aria-current=true]").count() == 2  # in the curve's table and the modalities'


def test_a_point_opens_its_record_and_the_command_is_copied(browser: Browser, board: Path) -> None:
    with Visit(browser) as visit:
        page = visit.open(board)
        page.locator("section.board .plot").first.scroll_into_view_if_needed()
        page.locator("section.board .plot .points path").first.hover(force=True)
        page.locator("section.board .plot .points path").first.click(force=True)
        page.wait_for_url("**/run/*.html")
        button = page.get_by_role("button", name="Copy the command")
        button.click()
        expect(page.locator(".copy").first).to_have_text(re.compile("Copied|Selected"))
        chosen = page.evaluate("getSelection().toString()") or page.locator("#command").inner_text()
        assert chosen.startswith("robmed ")


def test_everything_is_there_without_a_script(browser: Browser, board: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(board.as_uri())
    assert shown(page) == ROWS
    assert not page.locator("#filters").is_visible()
    assert page.locator("figure.chart:visible").count() == 0
    context.close()


def many(count: int) -> list[dict[str, Any]]:
    """Records of nets on ten data sets, a third of them unaudited."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        right = first_right(int(rng.integers(20, 180)))
        each = with_outcomes(
            record(f"r{number}", f"net-{number}", "unaudited" if number % 3 == 0 else "sound"), right
        )
        each["dataset"]["fingerprint"] = f"{number % 10:064d}"
        each["dataset"]["name"] = f"data-{number % 10}"
        made.append(each)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_thousand_rows_open_in_two_seconds(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, size: str
) -> None:
    """The best of three: rows and first figure drawn, the filter answering. Other processes may be busy."""
    given = write(tmp_path_factory.mktemp("many"), *many(1000))
    index = html_board([given], tmp_path_factory.mktemp("out") / "board").index
    times, answers = [], []
    for _ in range(3):
        with Visit(browser, size) as visit:
            started = time.perf_counter()
            page = visit.open(index)
            expect(page.get_by_role("status")).to_have_text("1000 runs.")
            times.append(time.perf_counter() - started)
            started = time.perf_counter()
            page.get_by_label("Search").fill("net-99")
            assert shown(page) == 11
            answers.append(time.perf_counter() - started)
    print(f"{size}: opened in {min(times):.2f} s, filtered in {min(answers):.2f} s")
    assert min(times) < SECONDS
    assert min(answers) < 1
