import pytest

from mathcore.viz import graphs

VAE = {"z": r"$\mathbf{z}$", "x": r"$\mathbf{x}$"}


def test_a_chain_is_laid_out_from_left_to_right():
    nodes = {f"x{i}": rf"$\mathbf{{x}}_{i}$" for i in range(4)}
    ax = graphs.graph(nodes, [(f"x{i + 1}", f"x{i}") for i in range(3)], kinds={"x0": "observed"}, dashed=[("x0", "x1")])
    places = {t.get_text(): t.get_position()[0] for t in ax.texts}
    assert [places[nodes[f"x{i}"]] for i in (3, 2, 1, 0)] == sorted(places.values())
    assert len(ax.patches) == 4 + 4  # outlines and arrows


def test_generation_and_inference_may_run_opposite_ways():
    ax = graphs.graph(VAE, [("z", "x")], dashed=[("x", "z")], edge_labels={("x", "z"): "encoder", ("z", "x"): "decoder"})
    assert {t.get_text() for t in ax.texts} == {*VAE.values(), "encoder", "decoder"}
    ax.figure.canvas.draw()


@pytest.mark.parametrize("kind", graphs.KINDS)
def test_every_kind_can_be_drawn(kind):
    graphs.graph(VAE, [("z", "x")], kinds={"x": kind}).figure.canvas.draw()


@pytest.mark.usefixtures("user_errors")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edges": [("z", "x"), ("x", "z")]}, "edges has the cycle"),
        ({"edges": [], "dashed": [("x", "x")]}, "dashed has the cycle"),
        ({"edges": [("z", "y")]}, "a node of edges must be one of z, x"),
        ({"edges": [("z", "x")], "kinds": {"x": "seen"}}, "kind must be one of"),
        ({"edges": [("z", "x")], "kinds": {"y": "latent"}}, "node must be one of z, x"),
        ({"edges": [("z", "x")], "positions": {"z": (0.0, 0.0)}}, r"no place for \['x'\]"),
        ({"edges": [("z", "x")], "edge_labels": {("x", "z"): "q"}}, "no edge of the graph"),
    ],
)
def test_bad_graphs_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        graphs.graph(VAE, **arguments)
