import base64
import importlib
import io
import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from mathcore.viz import _frames, choices, explore, plots, slider, style

MODULE = importlib.import_module("mathcore.viz.explore")  # the package has the function under this name


def draw(b, kind="p"):
    ax = plt.subplots(figsize=style.size(2, 3))[1]
    ax.plot([0, 1], [0, b], color=style.COLORS["model" if kind == "p" else "data"])
    ax.set(xlabel="x", ylabel="y", ylim=(0, 3))


@pytest.fixture
def show(monkeypatch):
    """Call explore in a mode and return the HTML that it displayed."""

    def call(mode, fn, **arguments):
        shown = []
        monkeypatch.setenv("MATHCORE_EXPLORE", mode)
        monkeypatch.setenv("CI", "1")
        monkeypatch.setattr(MODULE, "display", lambda data, **_: shown.append(data))
        assert explore(fn, **{"alt": "a line", **arguments}) is None
        assert len(shown) == 1
        return shown[0]

    return call


def decode(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")).astype(int)


def images(html):
    return [decode(t) for t in re.findall(r'src="data:image/webp;base64,([^"]+)"', html)]


def data(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL).group(1))


def paper(rgba):
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_static_page_holds_every_frame_and_starts_where_asked(show):
    html = show("static", draw, b=slider(1, 2, 3, label="β", start=1.5), kind=["p", "q"])["text/html"]
    page = data(html)
    assert page["texts"] == [["1", "1.5", "2"], ["p", "q"]]
    assert (len(page["frames"]), len(page["order"]), page["start"]) == (6, 6, 2)
    assert page["frames"][page["order"][2]] == ""  # shown by the image, not stored twice
    assert html.count('alt="a line"') == 1
    assert '<output aria-live="polite">1.5</output>' in html
    assert not re.search(r'(src|href)="(?!data:)|https?://|@import', html)


def test_layers_add_up_to_the_figure(show):
    html = show("static", draw, b=slider(1, 2, 3))["text/html"]
    common, special = images(html)
    assert not ((common[..., 3] > 0) & (special[..., 3] > 0)).any()
    draw(1.0)
    buffer = io.BytesIO()
    plt.gcf().savefig(buffer, format="png")
    want = paper(np.asarray(Image.open(buffer).convert("RGBA")).astype(int))
    got = paper(np.where(special[..., 3:] > 0, special, common))
    # 64 colours: what is left is the anti-aliasing of thin lines, a few grey levels
    assert np.abs(got - want).mean() < 0.5
    assert np.quantile(np.abs(got - want), 0.999) < 24


def test_equal_frames_are_stored_once(show):
    html = show("static", lambda b, unused: draw(b), b=[1, 2], unused=["a", "b", "c"])["text/html"]
    assert len(data(html)["frames"]) == 2
    assert data(html)["order"] == [0, 0, 0, 1, 1, 1]


def test_same_call_gives_the_same_bytes_and_other_content_another_id(show):
    first, second = (show("static", draw, b=[1, 2])["text/html"] for _ in range(2))
    assert first == second
    other = show("static", draw, b=[1, 3])["text/html"]
    assert re.search(r'id="explore-\w+"', first).group() != re.search(r'id="explore-\w+"', other).group()


def test_labels_cannot_break_out_of_the_markup(show):
    html = show("static", lambda **_: draw(1), alt='"<b>', x=choices([1, 2], label="</script><i>"), y=["</script>", "&"])["text/html"]
    seen = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: seen.append(tag)
    parser.feed(html)
    assert not {"b", "i"} & set(seen)
    assert seen.count("script") == 2
    assert data(html)["texts"][1] == ["</script>", "&"]


def test_first_mode_shows_one_frame_and_tries_the_last(show):
    called = []

    def fn(b, kind):
        called.append((b, kind))
        draw(b, kind)

    html = show("first", fn, b=slider(1, 2, 30, start=1.5), kind=["p", "q"])["text/html"]
    assert len(images(html)) == 1
    assert "<script" not in html
    assert "<form" not in html
    assert called[-1] == (2.0, "q")
    assert len(called) == 3

    def breaks(b):
        if b == 2:
            raise RuntimeError("the end of the grid")
        draw(b)

    with pytest.raises(RuntimeError, match="end of the grid"):
        show("first", breaks, b=[1, 2])


def test_figures_may_be_returned_as_such_or_as_axes(show):
    def by_axes(b):
        return plots.bars(["a"], {"model": [b]})

    assert len(data(show("static", by_axes, b=[1.0, 2.0])["text/html"])["frames"]) == 2
    assert len(data(show("static", lambda b: by_axes(b).figure, b=[1.0, 2.0])["text/html"])["frames"]) == 2
    assert len(data(show("static", lambda b: plt.plot([0, b]) and None, b=[1.0, 2.0])["text/html"])["frames"]) == 2
    assert plt.get_fignums() == []


def test_open_figures_of_the_notebook_stay_open(show):
    mine = plt.figure()
    show("first", draw, b=[1, 2])
    assert plt.get_fignums() == [mine.number]


def test_sliders_space_their_values():
    assert slider(0.05, 0.95, 19).values == pytest.approx([0.05 * k for k in range(1, 20)])
    log = slider(0.01, 100, 5, log=True, start=1.0)
    assert log.texts == ("0.01", "0.1", "1", "10", "100")
    assert log.start == 2
    assert slider(0, 1, 11, start=0.32).start == 3
    assert choices(np.array([1, 2, 5])).texts == ("1", "2", "5")
    assert choices(["a", "b"], start="b").start == 1


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: slider(1, 0, 3), ValueError, "low < high"),
        (lambda: slider(0, float("nan"), 3), ValueError, "finite"),
        (lambda: slider(0, 1, 3, log=True), ValueError, "low > 0"),
        (lambda: slider(0, 1, 1), ValueError, "at least 2 values"),
        (lambda: slider(0, 1, 3, start=2), ValueError, "start must lie between 0.0 and 1.0, got 2"),
        (lambda: slider(1, 1.0001, 3), ValueError, "read the same"),
        (lambda: choices([]), ValueError, "at least one value"),
        (lambda: choices([1, 1]), ValueError, "increasing"),
        (lambda: choices(["a", 1]), TypeError, "all numbers or all strings"),
        (lambda: choices([True, False]), TypeError, "all numbers or all strings"),
        (lambda: choices(["a", "b"], start="c"), ValueError, "start must be one of a, b"),
    ],
)
def test_bad_controls_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def random_line(b):
    draw(b + np.random.default_rng().random())


def growing(b):
    plt.subplots(figsize=(b, 2))


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize(
    ("fn", "arguments", "error", "message"),
    [
        (draw, {"b": slider(1, 2, 80), "kind": ["p", "q"]}, ValueError, r"80 \(b\) x 2 \(kind\) = 160 frames, more than 150: give b fewer"),
        (draw, {}, ValueError, "at least one control"),
        (draw, {"b": [1, 2], "alt": " "}, ValueError, "alt must say"),
        (draw, {"c": [1, 2]}, TypeError, "'c'|'b'"),
        (lambda b: None, {"b": [1, 2]}, ValueError, "an empty figure"),
        (lambda b: b, {"b": [1, 2]}, TypeError, "draw must return a figure"),
        (random_line, {"b": [1, 2]}, ValueError, "two different figures"),
        (growing, {"b": [1, 2]}, ValueError, "one size"),
    ],
)
def test_bad_explorations_are_named(show, fn, arguments, error, message):
    with pytest.raises(error, match=message):
        show("static", fn, **arguments)
    assert plt.get_fignums() == []


def test_a_page_too_heavy_is_refused(show, monkeypatch):
    monkeypatch.setattr(MODULE, "MAX_BYTES", 5000)
    with pytest.raises(ValueError, match=r"2 frames take .* MB, more than"):
        show("static", draw, b=[1, 2])


@pytest.mark.usefixtures("user_errors")
def test_unknown_mode_is_named(show):
    with pytest.raises(ValueError, match="MATHCORE_EXPLORE must be one of widget, static, first; got 'statc'"):
        show("statc", draw, b=[1, 2])


def test_widget_draws_again_when_a_control_moves(monkeypatch):
    shown = []
    monkeypatch.delenv("MATHCORE_EXPLORE", raising=False)
    monkeypatch.setattr(MODULE, "display", lambda w: shown.append(w))
    explore(draw, alt="a line", b=slider(1, 2, 3, label="β", start=2), kind=["p", "q"])
    row, picture, _ = shown[0].children
    number, menu = row.children
    assert (number.description, number.value, menu.value) == ("β", 2.0, "p")
    before = picture.value
    number.value = 1.0
    assert picture.value != before
    moved = picture.value
    menu.value = "q"
    assert picture.value != moved
    number.value, menu.value = 2.0, "p"
    assert picture.value == before
    image = Image.open(io.BytesIO(before))
    assert image.getpixel((0, 0)) == (255, 255, 255)  # readable on the dark theme of Lab too


def test_frames_of_different_size_are_refused():
    small, large = (io.BytesIO(), io.BytesIO())
    Image.new("RGBA", (2, 2)).save(small, "png")
    Image.new("RGBA", (3, 2)).save(large, "png")
    with pytest.raises(ValueError, match=r"\(2, 2\), \(3, 2\)"):
        _frames.same_size([small.getvalue(), large.getvalue()])
