import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mathcore.viz import style

# Machado, Oliveira, Fernandes (2009), severity 1, on linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
# W3C Filter Effects: hue-rotate with cos = -1, sin = 0
HUE_ROTATE_180 = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
PAGES = {"light": "#ffffff", "dark": "#121212"}


def on_page(rgb, page):
    return np.asarray(rgb) if page == "light" else np.clip(HUE_ROTATE_180 @ (1 - np.asarray(rgb)), 0, 1)


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    low, high = sorted(float(linear(np.asarray(c)) @ [0.2126, 0.7152, 0.0722]) for c in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(linear_rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(linear_rgb, 0, 1)
    f = np.where(xyz / [0.9505, 1, 1.089] > 0.008856, np.cbrt(xyz / [0.9505, 1, 1.089]), 7.787 * xyz / [0.9505, 1, 1.089] + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", style.COLORS)
def test_every_colour_has_contrast_three_on_both_pages(name, page):
    # WCAG 2.1, criterion 1.4.11: graphics need 3:1
    assert contrast(on_page(to_rgb(style.COLORS[name]), page), to_rgb(PAGES[page])) >= 3


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_stay_apart_for_everyone(kind, page):
    seen = {name: lab(BLINDNESS[kind] @ linear(on_page(to_rgb(c), page))) for name, c in style.COLORS.items()}
    roles = ["data", "noise", "model", "exact"]
    pairs = [(a, b) for i, a in enumerate(seen) for b in list(seen)[i + 1 :]]
    distance = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in pairs}
    # a CIELAB distance of 2.3 is just noticeable; the four roles are ten times that apart, the extra two at least four times
    assert min(d for pair, d in distance.items() if set(pair) <= set(roles)) > 23
    assert min(distance.values()) > 9.5


@pytest.mark.parametrize("name", ["data", "model", "second"])
def test_the_dark_filter_keeps_the_hue(name):
    before, after = (mpl.colors.rgb_to_hsv(on_page(to_rgb(style.COLORS[name]), page))[0] for page in PAGES)
    assert abs((before - after + 0.5) % 1 - 0.5) < 0.05


def test_density_map_is_paper_at_zero_and_darkens_steadily():
    rgba = style.DENSITY(np.linspace(0, 1, 256))
    assert rgba[0, 3] == 0
    seen = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    lightness = np.array([lab(linear(c))[0] for c in seen])
    assert (np.diff(lightness) < 0).all()
    dark = np.array([lab(linear(on_page(c, "dark")))[0] for c in seen])
    assert (np.diff(dark) > -0.05).all()  # rounding of a filtered channel clipped at 0
    assert dark[-1] > 75


def test_over_white_restores_the_colours():
    colors = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.2, 0.5, 0.9], [1.0, 0.3, 0.3]])
    rgba = style.over_white(colors)
    np.testing.assert_allclose(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:], colors, atol=1e-15)
    np.testing.assert_array_equal(rgba[:, 3], [0, 1, 0.8, 0.7])


def test_use_sets_legible_transparent_figures():
    with mpl.rc_context():
        style.use()
        assert min(mpl.rcParams[k] for k in ("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")) >= 9
        assert mpl.rcParams["figure.facecolor"] == mpl.rcParams["axes.facecolor"] == mpl.rcParams["savefig.facecolor"] == "none"
        assert mpl.rcParams["figure.dpi"] == 144
        assert not mpl.rcParams["axes.spines.top"]


def test_color_passes_roles_and_codes_and_refuses_the_rest():
    assert style.color("data") == style.COLORS["data"]
    assert style.color("#123456") == "#123456"
    assert style.color("C1") == "C1"
    with pytest.raises(ValueError, match=r"color must be one of data.*'dta'.*'data'"):
        style.color("dta")


def test_blend_goes_from_one_end_to_the_other():
    shades = style.blend("data", "noise", 5)
    assert shades[0] == style.COLORS["data"].lower()
    assert shades[-1] == style.COLORS["noise"].lower()
    assert len(set(shades)) == 5
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        style.blend("data", "noise", 0)


def test_alternate_gives_roles_their_colour_and_no_colour_twice():
    chosen = style.alternate(["Euler", "data", "Heun"])
    assert chosen["data"][0] == style.COLORS["data"]
    assert len({c for c, _ in chosen.values()}) == len({m for _, m in chosen.values()}) == 3
    with pytest.raises(ValueError, match="at most 6"):
        style.alternate([str(i) for i in range(7)])


@pytest.mark.parametrize(("height", "width"), [(0, 5), (3, 8), (11, 7), (3, -1)])
def test_size_refuses_what_the_page_cannot_show(height, width):
    assert style.size(3.0) == (7.2, 3.0)
    with pytest.raises(ValueError, match="width"):
        style.size(height, width)


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [
        (52.3, 2, "52"),
        (6432, 3, "6430"),
        (0.0064, 1, "0.006"),
        (9.99, 2, "10"),
        (0.5, 2, "0.50"),
        (0, 1, "0"),
        (-7.2e-15, 1, r"$-7\cdot10^{-15}$"),
        (0.00012, 2, r"$1.2\cdot10^{-4}$"),
        (99_999, 2, r"$1.0\cdot10^{5}$"),
        (float("inf"), 3, "inf"),
    ],
)
def test_numbers_are_written_as_a_reader_writes_them(value, digits, written):
    assert style.number(value, digits) == written


def test_a_number_has_a_digit():
    with pytest.raises(ValueError, match="digits"):
        style.number(1.0, 0)


def test_a_second_figure_parses_no_formula_again(monkeypatch):
    """And is the same to the pixel; other text, another size or another resolution is parsed."""
    from matplotlib import _mathtext

    parsed, parse = [], _mathtext.Parser.parse
    monkeypatch.setattr(_mathtext.Parser, "parse", lambda self, s, *rest: parsed.append(s) or parse(self, s, *rest))

    def pixels(label, **kind):
        figure, axes = plt.subplots(figsize=(2, 2), **kind)
        axes.set_xlabel(label)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba()).copy()

    first = pixels(r"$\alpha_{17}^2$")
    assert r"$\alpha_{17}^2$" in parsed
    parsed.clear()
    np.testing.assert_array_equal(pixels(r"$\alpha_{17}^2$"), first)
    assert parsed == []
    assert (pixels(r"$\alpha_{18}^2$") != first).any()
    assert set(parsed) == {r"$\alpha_{18}^2$"}
    parsed.clear()
    pixels(r"$\alpha_{17}^2$", dpi=100)
    assert r"$\alpha_{17}^2$" in parsed
