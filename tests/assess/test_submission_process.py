"""The process of a submission: what it can be given and give back, what it cannot do, and that nothing it does ends more than itself."""

import json
import time
from pathlib import Path

import pytest
import sympy as sp
import torch

from mathcore.assess import confine
from mathcore.assess.sandbox import Limits, ProcessEnded, StudentError, Submission
from mathcore.assess.symbolic import Answer, compare
from mathcore.discrete_schedule import DiscreteSchedule
from mathcore.distributions import GaussianMixture
from mathcore.schedules import AffineSchedule

CONFINED = bool(confine.landlock_version())
LIMITS = Limits(cell_seconds=5, test_seconds=5, memory=3 << 30)
needs_landlock = pytest.mark.skipif(not CONFINED, reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def process():
    with Submission(LIMITS, withheld=["mathcore.solvers"], confined=CONFINED) as submission:
        yield submission


@pytest.fixture
def define(process):
    def defined(source, name):
        result = process.run(source)
        assert result["error"] is None, result["error"]
        return process.names([name])[name]

    return defined


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        "text",
        [1, (2.0, "a")],
        {"a": 1, 2: [3]},
        1 + 2j,
        torch.tensor([[1.0, float("nan")]], dtype=torch.float32),
        torch.tensor(3),
        torch.float64,
    ],
)
def test_plain_values_come_back_as_they_went(define, value):
    same = define("def same(v):\n    return v", "same")
    got = same(value)
    assert type(got) is type(value)
    assert torch.equal(got.nan_to_num(7), value.nan_to_num(7)) if isinstance(value, torch.Tensor) else got == value
    assert getattr(got, "dtype", 0) == getattr(value, "dtype", 0)


def test_objects_of_the_book_arrive_whole(define):
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for schedule in (AffineSchedule.vp(0.2, 17.0), AffineSchedule.edm(), AffineSchedule.linear(), AffineSchedule.cosine()):
        got = define("def scales(s, t):\n    return s.alpha(t), s.sigma(t)", "scales")(schedule, t)
        assert torch.equal(got[0], schedule.alpha(t))
        assert torch.equal(got[1], schedule.sigma(t))
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 2.0]))
    x = torch.tensor([[0.5]])
    assert torch.equal(define("def score(m, x):\n    return m.score(x)", "score")(mixture, x), mixture.score(x))
    chain = DiscreteSchedule.linear(50)
    assert torch.allclose(define("def bars(c):\n    return c.alpha_bar", "bars")(chain), chain.alpha_bar, atol=1e-15)
    generator = torch.Generator().manual_seed(3)
    want = torch.rand(2, generator=torch.Generator().manual_seed(3))
    assert torch.equal(define("import torch\ndef draw(g):\n    return torch.rand(2, generator=g)", "draw")(generator), want)


def test_functions_are_called_where_they_live(define):
    apply = define("def apply(f, x):\n    return f(x, t=2) + 1", "apply")
    seen = []

    def ours(x, t):
        seen.append((x, t))
        return x * t

    assert apply(ours, 5) == 11
    assert seen == [(5, 2)]
    adder = define("def adder(n):\n    return lambda x: x + n", "adder")(3)  # a function of theirs comes back
    assert adder(4) == 7
    model = define("class Model:\n    bias = 2\n    def predict(self, x):\n        return x + self.bias\nmodel = Model()", "model")
    assert model.predict(1) == 3
    assert model.bias == 2


def test_an_expression_is_described_and_never_decoded_here(define):
    answer = define("import sympy as sp\nx = sp.Symbol('x')\ndef answer():\n    return sp.sin(x)**2, x", "answer")()
    assert all(isinstance(part, Answer) for part in answer)
    assert compare(answer[0], 1 - sp.cos(sp.Symbol("x")) ** 2).equal


def test_errors_keep_their_names(define):
    fail = define(
        "class Own(Exception): pass\ndef fail(k):\n    raise [ValueError, NotImplementedError, Own, KeyError, SystemExit][k]('so')", "fail"
    )
    for k, kind in enumerate((ValueError, NotImplementedError, StudentError, KeyError, StudentError)):
        with pytest.raises(kind, match="so") as caught:
            fail(k)
        assert "line 3, in fail" in caught.value.student_traceback
    with pytest.raises(ValueError, match="ours"):
        define("def through(f):\n    return f()", "through")(lambda: (_ for _ in ()).throw(ValueError("ours")))


def test_text_pictures_and_errors_of_a_cell(process):
    result = process.run("print('hello')\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert result["stdout"] == "hello\n"
    assert len(result["pictures"]) == 1
    name, message, trace = process.run("x = 1\n1 / 0")["error"]
    assert (name, message) == ("ZeroDivisionError", "division by zero")
    assert "your code, line 2" in trace
    assert process.run("def broken(:")["error"] == [
        "SyntaxError",
        "invalid syntax",
        "your code, line 1:\n    def broken(:\n               ^\nSyntaxError: invalid syntax",
    ]
    assert process.run("raise SyntaxError")["error"][:2] == ["SyntaxError", ""]
    assert process.run("import numpy\nnumpy.linalg.inv([[0.0]])")["error"][2].endswith("\nLinAlgError: Singular matrix")
    assert process.run("import sys; sys.exit()")["error"][0] == "SystemExit"
    assert process.run("1 + 1")["error"] is None


@pytest.mark.parametrize(
    "bad",
    [
        "while True: pass",
        "import os; os._exit(3)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os\nfor fd in range(3, 100):\n    try: os.write(fd, b'x' * 64)\n    except OSError: pass",
    ],
    ids=["loop", "exit", "kill", "garbage on the line"],
)
def test_after_the_end_of_a_process_the_good_cells_are_run_again(bad):
    with Submission(Limits(cell_seconds=2, test_seconds=2), confined=CONFINED) as submission:
        submission.run("good = 41\ndef answer():\n    return good + 1")
        start = time.monotonic()
        assert submission.run(bad)["error"][0] == "ProcessEnded"
        assert time.monotonic() - start < 30
        answer = submission.names(["answer"])["answer"]
        assert answer() == 42
        submission.run("def bad():\n    " + bad.replace("\n", "\n    "))
        with pytest.raises(ProcessEnded):
            submission.names(["bad"])["bad"]()
        with pytest.raises(ProcessEnded, match="earlier call"):
            answer()
        assert submission.names(["answer"])["answer"]() == 42


def test_time_is_the_processors_and_sleep_is_not_free():
    with Submission(Limits(cell_seconds=0.5, test_seconds=1, patience=4), confined=CONFINED) as submission:
        assert submission.run("import time; time.sleep(1)")["error"] is None  # waiting costs no processor time
        assert submission.run("import time; time.sleep(60)")["error"][0] == "ProcessEnded"
        submission.run("def ask(f):\n    while True: f()\ndef work(n):\n    return sum(range(n))")
        with pytest.raises(ProcessEnded, match="stopped after 1 s"):  # a loop that keeps asking is a loop too
            submission.names(["ask"])["ask"](lambda: None)
        with pytest.raises(ProcessEnded, match=r"stopped after 0\.3 s"), submission.budget(0.3):  # one budget for all calls
            work = submission.names(["work"])["work"]
            for _ in range(1000):
                work(300_000)
        assert submission.names(["work"])["work"](4) == 6


def test_memory_is_bounded(process):
    assert process.run("a = bytearray(20 << 30)")["error"][0] == "MemoryError"
    result = process.run("import torch\na = torch.zeros(3 << 29, dtype=torch.float64)")
    assert result["error"] is not None
    assert process.run("1 + 1")["error"] is None


def test_a_large_answer_is_refused(define):
    with pytest.raises((ProcessEnded, ValueError), match="large"):
        define("import torch\ndef large():\n    return torch.zeros(20_000_000, dtype=torch.float64)", "large")()


def test_withheld_modules(process):
    assert "asks you to write" in process.run("import mathcore.solvers")["error"][1]
    assert "asks you to write" in process.run("from mathcore.solvers.ddim import ddim")["error"][1]
    assert process.run("from mathcore.oracle import AffineGaussianOracle")["error"] is None


SETS = sorted((Path(__file__).resolve().parents[2] / "notebooks" / "problem_sets").glob("ps*/*.ipynb"))
WALK = """
import gc, sys, types
found = {name for name in sys.modules}
for thing in gc.get_objects():
    if isinstance(thing, types.ModuleType): found.add(str(thing.__name__))
    elif isinstance(thing, (type, types.FunctionType)): found.add(str(thing.__module__))
    elif type(thing) is dict and type(thing.get("__name__")) is str: found.add(thing["__name__"])
found = sorted(found)
"""


WAYS = {
    "import {module}": "ImportError",
    "from mathcore import {short}": "ImportError",
    "from {module} import *": "ImportError",
    "import importlib; importlib.import_module({module!r})": "ImportError",
    "import mathcore; mathcore.{short}": "AttributeError",
    "import sys; sys.modules[{module!r}]": "KeyError",
}
TRY = """
def attempt(text):
    try: exec(text, dict())
    except BaseException as error: return type(error).__name__
    return ""
got = [attempt(text) for text in {attempts}]
"""


@pytest.mark.parametrize("path", SETS, ids=[path.stem for path in SETS])
def test_nothing_withheld_is_in_the_process_of_a_set(path):
    cells = json.loads(path.read_text())
    withheld = cells["metadata"]["mathcore"]["withheld"]
    given = ["".join(c["source"]) for c in cells["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") in ("imports", "problem")]
    assert withheld
    assert given
    with Submission(LIMITS, withheld=withheld, confined=CONFINED) as submission:
        for text in given[:1]:  # what the set itself imports leads nowhere either
            assert submission.run(text)["error"] is None
        attempts = [
            [text.format(module=module, short=module.removeprefix("mathcore.")), kind] for module in withheld for text, kind in WAYS.items()
        ]
        assert submission.run(TRY.format(attempts=[text for text, _ in attempts]))["error"] is None
        assert [[text, got] for (text, _), got in zip(attempts, submission.names(["got"])["got"])] == attempts
        submission.run(WALK)
        loaded = submission.names(["found"])["found"]
        assert "mathcore.assess.checks" in loaded
        assert not [name for name in loaded if any(name == w or name.startswith(f"{w}.") for w in withheld)]
        if CONFINED:  # without our refusal the files are still closed
            submission.run("import sys; sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'Withheld']")
            submission.run(TRY.format(attempts=[f"import {module}" for module in withheld]))
            assert "" not in submission.names(["got"])["got"]


def test_what_was_loaded_before_it_was_withheld_is_gone_too():
    with Submission(LIMITS, withheld=["mathcore._validate"], confined=CONFINED) as submission:  # the template needs this one itself
        assert submission.run("import mathcore; mathcore._validate")["error"][0] == "AttributeError"
        assert submission.run("from mathcore import _validate")["error"][0] == "ImportError"


def test_bytecode_of_withheld_modules_is_closed(tmp_path, monkeypatch):
    package = tmp_path / "book"
    for name in ("oracle.py", "oracle_notes.py", "solvers/ddim.py", "assess/confine.py", "__pycache__/oracle.cpython-313.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    (package / "__pycache__" / "oracle_notes.cpython-313.pyc").touch()
    monkeypatch.setattr(confine, "__file__", str(package / "assess" / "confine.py"))
    read, _ = confine.readable(["mathcore.oracle", "mathcore.solvers"])
    mine = {Path(path).relative_to(package).as_posix() for path in read if path.startswith(str(package))}
    assert mine == {"oracle_notes.py", "assess", "__pycache__/oracle_notes.cpython-313.pyc"}


def test_a_test_of_the_grader_keeps_the_right_values():
    from mathcore.assess import checks

    with Submission(LIMITS, confined=CONFINED) as submission, submission.budget(5), pytest.raises(AssertionError) as caught:
        checks.close(1.0, 2.125, "the gain")
    assert "2.125" not in str(caught.value)


@needs_landlock
@pytest.mark.parametrize(
    "attempt",
    [
        "open({secret!r}).read()",
        "open({secret!r}, 'w').write('x')",
        "import os; os.remove({secret!r})",
        "import os; os.symlink({secret!r}, 'link'); open('link').read()",
        "import os; open(f'/proc/{{os.getppid()}}/environ').read()",
        "import os; os.kill({grader}, 0)",
        "import subprocess; subprocess.run(['/bin/cat', {secret!r}], check=True)",
        "import ctypes; assert ctypes.CDLL(None).open({secret!r}.encode(), 0) < 0; raise PermissionError",
        "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)",
        "import mathcore, pathlib; (pathlib.Path(mathcore.__file__).parent / 'solvers' / 'ddim.py').read_text()",
        "import mathcore, pathlib; (pathlib.Path(mathcore.__file__).parents[1] / 'pyproject.toml').read_text()",
    ],
)
def test_what_a_submission_cannot_touch(process, tmp_path, attempt):
    import os

    secret = tmp_path / "gradebook.db"
    secret.write_text("truth")
    result = process.run(attempt.format(secret=str(secret), grader=os.getpid()))
    assert result["error"] is not None, result
    assert result["error"][0] in ("PermissionError", "CalledProcessError"), result["error"]
    assert secret.read_text() == "truth"


@needs_landlock
def test_a_submission_may_write_in_its_own_folder(process):
    assert process.run("open('note.txt', 'w').write('ok')\nassert open('note.txt').read() == 'ok'")["error"] is None
    assert process.run("import tempfile; tempfile.TemporaryFile().write(b'x')")["error"] is None


def test_the_environment_of_the_grader_stays_outside(monkeypatch):
    monkeypatch.setenv("COURSE_KEY", "secret")
    with Submission(LIMITS, confined=CONFINED) as submission:
        submission.run("import os\nkeys = sorted(os.environ)")
        assert "COURSE_KEY" not in submission.names(["keys"])["keys"]


def test_no_confinement_no_grading(monkeypatch):
    monkeypatch.setattr(confine, "landlock_version", lambda: 0)
    with pytest.raises(RuntimeError, match="no Landlock"):
        Submission()
