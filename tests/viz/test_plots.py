import io
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from mathcore.viz import plots, style


def normal(x):
    return torch.exp(-(x**2).sum(1) / 2) / (2 * math.pi) ** (x.shape[1] / 2)


class Bell:
    def prob(self, x):
        return normal(x)


def pixels(ax):
    buffer = io.BytesIO()
    ax.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_density_1d_draws_the_density_of_an_object_or_a_function():
    ax = plots.density_1d(Bell(), (-3, 3), n=7, color="data", label="bell", fill=True)
    line = ax.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [-3, -2, -1, 0, 1, 2, 3])
    assert line.get_ydata()[3] == pytest.approx(0.3989422804014327, rel=1e-15)  # 1 / sqrt(2 pi)
    assert to_hex(line.get_color()) == style.COLORS["data"].lower()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x$", "density")
    assert plots.density_1d(normal, (-1, 1), ax=ax) is ax
    assert len(ax.lines) == 2


def test_density_2d_puts_values_where_they_belong():
    ax = plots.density_2d(lambda x: torch.exp(-((x[:, 0] - 1) ** 2) - (x[:, 1] + 2) ** 2), ((0.0, 2.0), (-4.0, 0.0)), n=41, colorbar=True)
    image = ax.images[0]
    row, col = np.unravel_index(image.get_array().argmax(), (41, 41))
    assert (row, col) == (20, 20)
    assert image.get_extent() == [0, 2, -4, 0]
    assert image.get_clim()[0] == 0
    one_sided = plots.density_2d(lambda x: x[:, 0] + 1, (0.0, 1.0), n=3).images[0].get_array()
    np.testing.assert_allclose(one_sided, [[1, 1.5, 2]] * 3)  # grows along the first axis: columns


def test_scatter_draws_every_kth_point_always_the_same():
    points = torch.arange(20, dtype=torch.float32).reshape(10, 2)
    drawn = plots.scatter(points, n_max=4).collections[0].get_offsets()
    np.testing.assert_array_equal(drawn, points[[0, 3, 6, 9]])
    assert len(plots.scatter(points, n_max=10).collections[0].get_offsets()) == 10


def test_image_grid_lays_images_row_by_row_dark_on_paper():
    images = torch.stack([torch.full((1, 2, 3), v) for v in (-1.0, 0.0, 0.5, 1.0, 9.0)])
    ax = plots.image_grid(images, 2, 2, title="four")
    image = ax.images[0]
    sheet = image.get_array()
    assert sheet.shape == (5, 7)
    assert [sheet[0, 0], sheet[0, 4], sheet[3, 0], sheet[3, 4]] == [-1, 0, 0.5, 1]
    paper, ink = (image.cmap(image.norm(v))[:3] for v in (-1.0, 1.0))
    assert sum(paper) == 3
    assert sum(ink) == 0
    assert ax.get_title() == "four"


def test_convergence_names_slopes_and_lies_on_logarithmic_axes():
    h = torch.tensor([0.1, 0.05, 0.025, 0.0125], dtype=torch.float64)
    ax = plots.convergence(h, {"Euler": h, "Heun": h**2}, slopes=[1, 2])
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.texts] == ["slope 1", "slope 2"]
    for line, slope in zip(ax.lines[2:], (1, 2)):
        (x0, x1), (y0, y1) = line.get_data()
        assert math.log(y1 / y0) / math.log(x1 / x0) == pytest.approx(slope, rel=1e-12)
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"Euler", "Heun"}


def test_arrows_and_field_agree():
    lim = (-1.0, 1.0)
    by_field = plots.vector_field(lambda x: 2 * x, lim, n=3, scale=0.5).collections[0]
    at = torch.tensor([(x, y) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])
    by_hand = plots.arrows(at, 2 * at, scale=0.5).collections[0]
    np.testing.assert_allclose(by_field.get_offsets(), by_hand.get_offsets())
    np.testing.assert_allclose(by_field.U, by_hand.U)


def test_trajectories_in_one_and_two_dimensions():
    ax = plots.trajectories(torch.zeros(5, 3, 1), torch.linspace(0, 1, 5), label="path")
    assert ax.get_xlabel() == "time $t$"
    assert len(ax.lines) == 3
    assert ax.get_legend_handles_labels()[1] == ["path"]
    plane = plots.trajectories(torch.randn(5, 3, 2))
    assert plane.get_xlabel() == "$x_1$"
    assert len(plane.collections) == 2


def test_bars_and_loss_curve():
    ax = plots.bars(["a", "b"], {"model": [1.0, 2.0], "exact": [1.5, 1.5]}, errors={"model": [0.1, 0.1]}, ylabel="KL")
    assert [round(p.get_height(), 1) for p in ax.patches] == [1.0, 2.0, 1.5, 1.5]
    curve = plots.loss_curve([4.0, 2.0, 3.0, 1.0], window=2, floor=0.5)
    np.testing.assert_allclose(curve.lines[1].get_ydata(), [3.0, 2.5, 2.0])
    np.testing.assert_allclose(curve.lines[1].get_xdata(), [2, 3, 4])


def test_legend_moves_out_when_crowded_and_shows_dots():
    ax = plt.subplots()[1]
    for k in range(5):
        ax.plot([0, 1], [k, k], label=str(k))
    plots.scatter([[0.0, 0.0]], ax=ax, label="dots")
    plots.legend(ax)
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    dots = [h for h in ax.get_legend().legend_handles if isinstance(h, PathCollection)]
    assert dots[0].get_alpha() == 1.0


def test_same_call_gives_the_same_bytes():
    points = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    assert pixels(plots.scatter(points)) == pixels(plots.scatter(points))


NAN = torch.tensor([[0.0, float("nan")]])


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.density_1d(normal, (1.0, -1.0)), "lim must be finite and increasing"),
        (lambda: plots.density_1d(lambda x: x, (-1.0, 1.0)), "density must have shape"),
        (lambda: plots.density_1d(lambda x: x[:, 0] / 0, (-1.0, 1.0)), "density contains NaN"),
        (lambda: plots.density_1d(normal, (-1.0, 1.0), color="sky"), "color must be one of"),
        (lambda: plots.density_2d(lambda x: -normal(x), (-1.0, 1.0)), "cannot be negative"),
        (lambda: plots.density_2d(normal, ((-1.0, 1.0), (0.0, 0.0))), "lim must be"),
        (lambda: plots.scatter(torch.zeros(3, 3)), r"points must have shape \(any, 2\), got \(3, 3\)"),
        (lambda: plots.scatter(NAN), "points contains NaN"),
        (lambda: plots.scatter(torch.zeros(3, 2), n_max=0), "n_max must be at least 1"),
        (lambda: plots.image_grid(torch.zeros(3, 8, 8), 1, 3), "images must have shape"),
        (lambda: plots.image_grid(torch.zeros(3, 1, 8, 8), 2, 2), "needs at least 4 images, got 3"),
        (lambda: plots.convergence([0.1, 0.2], {}), "at least one curve"),
        (lambda: plots.convergence([0.1, 0.2], {"a": [1.0, 0.0]}), "positive"),
        (lambda: plots.convergence([0.1, 0.2], {"a": [1.0]}), r"errors\['a'\] must have shape"),
        (lambda: plots.arrows(torch.zeros(3, 2), torch.zeros(2, 2)), "vectors must have shape"),
        (lambda: plots.arrows(torch.zeros(3, 2), torch.zeros(3, 2), scale=0.0), "scale must be positive"),
        (lambda: plots.trajectories(torch.zeros(3, 2, 3)), "paths must have shape"),
        (lambda: plots.trajectories(torch.zeros(3, 2, 1)), "times given: False"),
        (lambda: plots.bars(["a"], {"x": [1.0, 2.0]}), r"heights\['x'\] must have shape"),
        (lambda: plots.bars(["a"], {"x": [1.0]}, errors={"y": [1.0]}), "must belong to a series"),
        (lambda: plots.loss_curve([1.0, 2.0], window=3), "window must be between 1 and"),
        (lambda: plots.loss_curve([1.0, -2.0], window=1, log=True), "positive losses"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
