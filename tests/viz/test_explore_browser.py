"""The pre-computed slider in a real browser: moved by mouse and keyboard, without a network, in both themes, on paper, without scripts."""

import importlib
import io
import os
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from mathcore.viz import explore, slider, style

PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>html{{background:{background}}}body{{margin:8px}}</style><main class="bd-content">{blocks}</main></html>"""


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        reason = "no chromium, chromium-browser or google-chrome on PATH"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}: the sliders of the book cannot be checked")
        pytest.skip(reason)
    sync_api = pytest.importorskip("playwright.sync_api") if not os.environ.get("CI") else __import__("playwright.sync_api").sync_api
    with sync_api.sync_playwright() as p:
        found = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield found
        found.close()


def draw(height, kind):
    ax = plt.subplots(figsize=style.size(2))[1]
    ax.bar([0], [height], color=style.COLORS["model" if kind == "model" else "data"])
    ax.set(xlabel="x", ylabel="y", ylim=(0, 10))


@pytest.fixture(scope="module")
def blocks():
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATHCORE_EXPLORE", "static")
        patch.setenv("CI", "1")
        patch.setattr(importlib.import_module("mathcore.viz.explore"), "display", lambda data, **_: shown.append(data["text/html"]))
        style.use()
        explore(draw, alt="a bar", height=slider(2, 8, 4, start=4), kind=["model", "data"])
        explore(lambda height: draw(height, "model"), alt="another bar", height=[1, 9])
    return shown


def open_page(browser, tmp_path, blocks, theme="light", **options):
    background = "#121212" if theme == "dark" else "#ffffff"
    (tmp_path / "page.html").write_text(
        PAGE.format(theme=theme, background=background, blocks="<p>text</p>".join(blocks)), encoding="utf-8"
    )
    page = browser.new_context(offline=True, **options).new_page()
    page.set_default_timeout(5000)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda r: page.problems.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto((tmp_path / "page.html").as_uri())
    return page


def picture(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def bar(locator, color, tolerance=40):
    """Share of pixels of the figure in ``color``: the height of the bar."""
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(picture(locator) - rgb).max(axis=2) < tolerance).mean()


def test_slider_moves_by_keyboard_and_menu_changes_the_figure(browser, tmp_path, blocks):
    page = open_page(browser, tmp_path, blocks)
    block = page.locator(".mc-explore").first
    figure, number = block.locator("figure"), block.get_by_label("height")
    model = style.COLORS["model"]
    at_four = bar(figure, model)
    assert at_four > 0.1
    page.keyboard.press("Tab")
    assert number.evaluate("e => e === document.activeElement")
    assert number.get_attribute("aria-valuetext") == "4"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert block.locator("output").inner_text() == number.get_attribute("aria-valuetext") == "8"
    assert bar(figure, model) == pytest.approx(2 * at_four, rel=0.03)
    page.keyboard.press("Home")
    assert block.locator("output").inner_text() == "2"
    assert bar(figure, model) == pytest.approx(at_four / 2, rel=0.06)
    block.get_by_label("kind").select_option("data")
    assert bar(figure, model) == 0
    assert bar(figure, style.COLORS["data"]) == pytest.approx(at_four / 2, rel=0.06)
    assert page.problems == []


def test_slider_moves_by_mouse_and_leaves_the_other_alone(browser, tmp_path, blocks):
    page = open_page(browser, tmp_path, blocks)
    first, second = page.locator(".mc-explore").all()
    before = picture(first.locator("figure"))
    box = second.get_by_label("height").bounding_box()
    small = bar(second.locator("figure"), style.COLORS["model"])
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert second.locator("output").inner_text() == "9"
    assert bar(second.locator("figure"), style.COLORS["model"]) > 5 * small
    np.testing.assert_array_equal(picture(first.locator("figure")), before)
    assert page.problems == []


def test_equal_blocks_on_one_page_both_work(browser, tmp_path, blocks):
    page = open_page(browser, tmp_path, [blocks[1], blocks[1]])
    for block in page.locator(".mc-explore").all():
        block.get_by_label("height").press("End")
        assert block.locator("output").inner_text() == "9"
    assert page.problems == []


def test_dark_theme_turns_ink_light_and_keeps_the_page_dark(browser, tmp_path, blocks):
    dark = picture(open_page(browser, tmp_path, blocks, "dark").locator("figure").first)
    assert np.abs(dark[2, 2] - 0x12).max() <= 1  # the corner of the figure is the page itself
    assert (dark.min(axis=2) > 0xD0).any()  # light ink
    assert np.median(dark) < 0x20


def test_start_frame_shows_without_scripts_and_controls_do_not(browser, tmp_path, blocks):
    with_scripts = open_page(browser, tmp_path, blocks)
    without = open_page(browser, tmp_path, blocks, java_script_enabled=False)
    np.testing.assert_array_equal(picture(without.locator("figure").first), picture(with_scripts.locator("figure").first))
    assert with_scripts.locator("form").first.is_visible()
    assert not without.locator("form").first.is_visible()


def test_print_hides_the_controls(browser, tmp_path, blocks):
    page = open_page(browser, tmp_path, blocks)
    page.emulate_media(media="print")
    assert not page.locator("form").first.is_visible()
    assert page.locator("figure").first.is_visible()


def test_alternative_text_is_read_once(browser, tmp_path, blocks):
    page = open_page(browser, tmp_path, blocks)
    assert page.get_by_role("img", name="a bar", exact=True).count() == 1
    assert page.get_by_role("slider", name="height").count() == 2


def test_a_phone_sees_all_of_it(browser, tmp_path, blocks):
    page = open_page(browser, tmp_path, blocks, viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator(".mc-explore").first
    slider_box, menu_box = box.get_by_label("height").bounding_box(), box.get_by_label("kind").bounding_box()
    assert menu_box["y"] > slider_box["y"] + slider_box["height"] / 2  # the controls wrap
    assert slider_box["width"] > 100
