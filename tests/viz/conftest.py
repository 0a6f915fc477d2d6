import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _quiet_figures():
    """No window, the book's style, and no figure left open for the next test."""
    from mathcore.viz import style

    plt.switch_backend("agg")
    with mpl.rc_context():
        style.use()
        yield
    plt.close("all")
