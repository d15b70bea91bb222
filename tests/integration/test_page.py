"""The page in a real browser, opened from disk: players in step, timeline, sorting, keyboard, phone, themes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reports import html
from talkbench import api
from talkbench.schema import Item, Suite, TierRule
from talkbench.store.run import Run
from tests.support import make_clip

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"),
]

WEIRD = 'it\'s "odd" <script>alert(1) é#1 100%?'
SYSTEMS = ("ours", "theirs", "yet <b>another & co")
FRAME = 1 / 25
PLAYERS = "[...document.querySelectorAll('#tiles video')]"
TIMES = f"{PLAYERS}.map(video => video.currentTime)"
PATIENCE_SECONDS = 30
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three systems on three short items, one of them oddly named, and a long one; one clip is missing."""
    folder = tmp_path_factory.mktemp("page")
    items = [
        Item(id=name, tier="short", identity=f"person {n}", duration_seconds=4, text="Hello <i>there</i>")
        for n, name in enumerate(("first", "second", WEIRD))
    ]
    items.append(Item(id="long", tier="long", identity="person 0", duration_seconds=32))
    tiers = (TierRule(name="short", title="Short"), TierRule(name="long", title="Long"))
    suite = Suite(name="toy", version=1, title="Toy", description="", licence="CC0", tiers=tiers, items=tuple(items))
    for s, system in enumerate(SYSTEMS):
        for n, item in enumerate(items):
            if (s, item.id) != (2, "second"):
                seconds = item.duration_seconds - (1 if s == 1 and n == 1 else 0)
                path = folder / "clips of #1" / system / f"{item.id}.mp4"
                make_clip(path, seconds=seconds, seed=n, speed=1 + 2 * s, audio=s != 2, crf=24)
    api.score([folder / "clips of #1" / system for system in SYSTEMS], folder / "run", suite=suite, jobs=1)
    return html.write_page(Run(folder / "run"), folder / "run" / "report")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Callable[..., Any]]:
    """Open the page; at the end no error may have been logged and nothing asked of the network."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def note(request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            wrong.append(f"request: {request.url}")

    def go(address: str = "", width: int = 1200, height: int = 900, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.on("console", lambda message: wrong.extend([message.text] * (message.type in {"error", "warning"})))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", note)
        page.goto(page_file.as_uri() + address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


def until(page: Any, expression: str) -> None:
    """Wait for a condition; Playwright's own waiting needs `eval` in the page, which its policy forbids."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"still not so after {PATIENCE_SECONDS} s: {expression}"
        page.wait_for_timeout(20)


def opened(page: Any, item: str = "first", num_players: int = 3) -> Any:
    """Open an item and wait until all its players have a picture."""
    page.get_by_role("link", name=item, exact=True).click()
    until(page, f"({PLAYERS}).length === {num_players} && ({PLAYERS}).every(video => video.readyState >= 1)")
    return page


def settled(page: Any) -> list[float]:
    """Return the players' times once no seek is under way."""
    until(page, f"{PLAYERS}.every(video => !video.seeking)")
    return list(page.evaluate(TIMES))


def spread(times: list[float]) -> float:
    return max(times) - min(times)


def running_apart(page: Any) -> float:
    """Return how far apart players are while playing: of ten looks the third worst, since a busy machine stutters."""
    looks = []
    for _ in range(10):
        page.wait_for_timeout(50)
        looks.append(spread(page.evaluate(TIMES)))
    return sorted(looks)[-3]


def click_timeline(page: Any, seconds: float) -> None:
    """Click where the time axis says `seconds`: margins are those of plot.js."""
    box = page.locator("#timeline").bounding_box()
    until = float(page.locator("#timeline").get_attribute("aria-valuemax"))
    page.mouse.click(box["x"] + 54 + seconds / until * (box["width"] - 54 - 16), box["y"] + 60)


def test_the_page_opens_from_disk_without_an_error(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator("h1").inner_text() == "run"
    assert page.locator("#item-list tbody tr").count() == 3
    assert page.locator("video").count() == 0, "no video element before an item is opened"
    assert page.locator(".panel svg").count() >= 2


def test_players_of_an_item_run_together_and_stay_together_after_a_seek(visit: Callable[..., Any]) -> None:
    page = opened(visit())
    page.keyboard.press("Space")
    until(page, f"Math.min(...{TIMES}) > 0.5")
    assert running_apart(page) < 0.06
    click_timeline(page, 2.4)
    until(page, f"Math.min(...{TIMES}) > 2.6")
    assert running_apart(page) < 0.06
    page.keyboard.press("Space")
    times = settled(page)
    page.wait_for_timeout(150)
    assert page.evaluate(TIMES) == times, "paused players stand"
    assert spread(times) < FRAME / 2 + 1e-6


@pytest.mark.parametrize("seconds", [0.5, 1.75, 3.2])
def test_a_click_on_the_timeline_takes_all_players_there(visit: Callable[..., Any], seconds: float) -> None:
    page = opened(visit())
    click_timeline(page, seconds)
    assert settled(page) == pytest.approx([seconds] * 3, abs=FRAME)
    assert f"{seconds:.2f}"[:3] in page.locator("#clock").inner_text()


def test_space_plays_and_pauses_and_other_keys_move(visit: Callable[..., Any]) -> None:
    page = opened(visit())
    playing = f"{PLAYERS}.some(video => !video.paused)"
    page.keyboard.press("Space")
    until(page, playing)
    page.keyboard.press("Space")
    until(page, f"!({playing})")
    page.keyboard.press("Home")
    assert settled(page) == [0, 0, 0]
    page.keyboard.press("ArrowRight")
    assert settled(page) == pytest.approx([1, 1, 1], abs=1e-3)
    page.keyboard.press(".")
    assert settled(page) == pytest.approx([26.5 * FRAME] * 3, abs=1e-3)
    page.keyboard.press(",")
    page.keyboard.press(",")
    assert settled(page) == pytest.approx([24.5 * FRAME] * 3, abs=1e-3)


def test_one_player_at_most_is_heard_and_digits_choose_it(visit: Callable[..., Any]) -> None:
    page = opened(visit())
    heard = f"{PLAYERS}.map(video => !video.muted)"
    assert page.evaluate(heard) == [True, False, False]
    page.keyboard.press("2")
    assert page.evaluate(heard) == [False, True, False]
    assert "theirs" in page.locator("#stage-status").inner_text()
    page.keyboard.press("0")
    assert page.evaluate(heard) == [False, False, False]


def test_shorter_clips_wait_at_their_end_and_missing_ones_say_why(visit: Callable[..., Any]) -> None:
    page = opened(visit(), "second", num_players=2)
    assert "no clip" in page.locator("#stage-absent").inner_text()
    click_timeline(page, 3.5)
    longer, shorter = settled(page)
    assert longer == pytest.approx(3.5, abs=FRAME)
    assert 2.9 < shorter <= 3.0
    assert page.locator(".tile.over").count() == 1
    page.keyboard.press("l")
    page.keyboard.press("Space")
    until(page, f"Math.max(...{TIMES}) < 1 && Math.min(...{TIMES}) > 0.1")


def test_an_address_opens_its_item_whatever_its_name(visit: Callable[..., Any]) -> None:
    from urllib.parse import quote

    page = visit(f"#item={quote(WEIRD, safe='')}")
    assert page.locator("#stage-title").inner_text() == WEIRD
    until(page, f"{PLAYERS}.every(video => video.readyState >= 1)")
    assert page.locator("#tiles .name").all_text_contents() == list(SYSTEMS)
    page.keyboard.press("Escape")
    until(page, "!location.hash")
    assert page.locator("video").count() == 0, "closing lets go of the files"


def test_the_next_item_follows_the_order_of_the_list(visit: Callable[..., Any]) -> None:
    page = visit()
    page.select_option("select[name=order]", "name")
    listed = page.locator("#item-list tbody th").all_inner_texts()
    assert listed == sorted(["first", "second", WEIRD], key=str.casefold)
    opened(page, listed[0])
    seen = []
    for number in range(1, len(listed)):
        page.keyboard.press("n")
        until(page, f"document.getElementById('stage-title').textContent !== {json.dumps(listed[number - 1])}")
        seen.append(page.locator("#stage-title").inner_text())
    assert seen == listed[1:]


def test_curves_stand_on_the_axis_of_the_players_and_hover_says_their_values(visit: Callable[..., Any]) -> None:
    page = visit()
    page.select_option("select[name=tier]", "long")
    opened(page, "long")
    box = page.locator("#timeline").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 90)
    tip = page.locator("#timeline .tip")
    assert tip.locator("div").count() == 4
    assert tip.inner_text().startswith("0:15")
    page.select_option("#stage-output", "motion.amount")
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + 90)
    assert "100" not in tip.inner_text()


def test_sorting_orders_rows_inside_their_block_with_missing_values_last(visit: Callable[..., Any]) -> None:
    page = visit()
    head = page.locator("#table1 th", has_text="Temporal-F ↑").first
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    column = (
        "[...document.querySelectorAll('#table1 tbody')].map(b => [...b.rows].filter(r => !r.matches('.block'))"
        ".map(r => r.cells[1].dataset.value === undefined ? null : Number(r.cells[1].dataset.value)))"
    )
    blocks = page.evaluate(column)
    assert len(blocks) == 2
    assert len(set(blocks[0])) == len(SYSTEMS), "equal values are in any order"
    assert all(block == sorted(block, reverse=True) for block in blocks)
    page.keyboard.press("Enter")
    assert all(block == sorted(block) for block in page.evaluate(column))
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") is None


def test_items_are_listed_worst_first_for_the_chosen_system(visit: Callable[..., Any]) -> None:
    page = visit()
    page.locator("#item-list thead button", has_text="theirs").click()
    values = [float(text) for text in page.locator("#item-list tbody td:nth-child(4)").all_inner_texts()]
    assert values == sorted(values), "higher is better, so the lowest comes first"
    page.fill("input[name=find]", "odd")
    assert page.locator("#item-list tbody tr").count() == 1


def test_hiding_a_system_takes_its_line_away(visit: Callable[..., Any]) -> None:
    page = visit()
    button = page.locator("#drift-legend button").first
    before = page.locator("#drift-plot canvas").screenshot()
    button.press("Enter")
    assert page.locator("#drift-legend button").first.get_attribute("aria-pressed") == "false"
    assert page.locator("#drift-plot canvas").screenshot() != before


@pytest.mark.parametrize("address", ["", "#item=first"])
def test_nothing_overflows_on_a_phone(visit: Callable[..., Any], address: str) -> None:
    page = visit(address, width=390, height=844, has_touch=True, is_mobile=True)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if address:
        until(page, f"{PLAYERS}.length === 3")
        assert page.evaluate("document.getElementById('stage').scrollWidth <= innerWidth")
        assert page.locator("#timeline").bounding_box()["height"] >= 100


def test_the_theme_follows_the_system_and_the_button(visit: Callable[..., Any]) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
    assert light.evaluate(paper) != dark.evaluate(paper)
    light.locator("#theme").click()
    light.locator("#theme").click()
    assert light.evaluate(paper) == dark.evaluate(paper)
    light.reload()
    assert light.evaluate(paper) == dark.evaluate(paper), "the choice is remembered"


def test_the_keyboard_alone_reaches_and_works_the_players(visit: Callable[..., Any]) -> None:
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator("#item-controls input").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('a.open')"):
            break
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'play'")
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "timeline":
            break
    assert page.evaluate("document.activeElement.getAttribute('role')") == "slider"
    page.keyboard.press("ArrowRight")
    assert page.locator("#timeline").get_attribute("aria-valuenow") == "1.00"
    page.keyboard.press("Escape")
    until(page, "document.activeElement.matches('a.open')")


def test_the_data_can_be_saved(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(accept_downloads=True)
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "data.json")
    assert '"suite":"toy.v1"' in (tmp_path / "data.json").read_text(encoding="utf-8")


def test_nothing_moves_when_pictures_come_into_view(visit: Callable[..., Any]) -> None:
    """A picture that grows as it loads would take a link away from under a reader's pointer."""
    page = visit(width=1400)
    tall = "document.documentElement.scrollHeight"
    before = page.evaluate(tall)
    for number in range(page.locator("#frames img").count()):
        page.locator("#frames img").nth(number).scroll_into_view_if_needed()
    until(page, "document.images.length > 0 && [...document.images].every(image => image.complete)")
    assert page.evaluate(tall) == before


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots_show_something(
    visit: Callable[..., Any], tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    page = visit(width=width, height=height, color_scheme=scheme)
    page.screenshot(path=tmp_path / "page.png")
    opened(page)
    page.wait_for_timeout(200)
    page.screenshot(path=tmp_path / "stage.png")
    for name in ("page.png", "stage.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("L"), dtype=np.float64)
        assert pixels.shape == (height, width)
        assert pixels.std() > 8, f"{name} is blank"
