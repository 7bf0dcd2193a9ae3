"""A plugin of pytest that runs Keras's own tests with each ``fit`` in them done in another way.

``--fits natively`` only notes in a file what each ``fit`` left; ``--fits again`` shows which of them isn't the same
when it is done once more. ``--fits from_keras`` and ``--fits as_native`` do it by mlpug, and fail a test that fails, or
where a ``fit`` left something else than was noted. A test that is refused must be in the list of this way, with words
of what mlpug says; one in the list that isn't refused fails.
"""

import pathlib
import pickle
import sys

import keras
import numpy as np
import pytest
from downstream import keras_conftest
from downstream.fits import Fits

SEED = 1337
FOLDER = pathlib.Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--fits", choices=["natively", "again", "from_keras", "as_native"], default="natively")
    parser.addoption("--noted", type=pathlib.Path, required=True, help="where what each fit left is written, or read")


def pytest_configure(config):
    sys.modules["conftest"] = keras_conftest
    seed = np.random.seed
    np.random.seed = lambda given=None: seed(SEED if given is None else given)  # test data that nobody seeds
    config.pluginmanager.register(Downstream(config.getoption("--fits"), config.getoption("--noted")))


class Downstream:
    """Replaces ``fit``, and counts what becomes of the tests."""

    def __init__(self, way, path):
        self.way, self.path = way, path
        self.noted = {} if way == "natively" else pickle.loads(path.read_bytes())
        self.refusals = listed(f"refused_{way}.txt")
        self.not_repeatable = listed("not_repeatable.txt")
        self.fits = Fits(way, self.noted)
        self.counts = dict.fromkeys(("as natively", "refused", "failed", "without fit"), 0)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        """Refuse a list with a test that isn't in its file."""
        names, files = {name_of(item) for item in items}, {item.path.name for item in items}
        in_lists = [*self.refusals, *self.not_repeatable]
        unknown = [name for name in in_lists if name.split("::")[0] in files and name not in names]
        if unknown:
            raise pytest.UsageError(f"listed, and not among Keras's tests: {', '.join(unknown)}")

    def pytest_runtest_setup(self, item):
        keras.utils.set_random_seed(SEED)
        self.fits.begin(name_of(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if call.when == "call" and not report.skipped:
            self.judge(item, report)
        return report

    def judge(self, item, report):
        """Say what became of a test: of those that ``fit`` by mlpug, or that failed."""
        name = name_of(item)
        words, refusal = self.refusals.pop(name, None), self.fits.refusal
        wrong = [] if report.failed or name in self.not_repeatable else self.fits.differences
        if refusal is not None and words is not None and words in refusal:
            report.outcome, report.longrepr = "passed", None
            self.counts["refused"] += 1
            return
        if words is not None and not report.failed:
            wrong = [f"it is listed as refused, by {words!r}, and this was said: {refusal}", *wrong]
        elif refusal is not None and self.fits.works_natively:
            wrong = [f"it isn't listed as refused: {refusal}", *wrong]
        if wrong:
            report.outcome, report.longrepr = "failed", "\n".join(wrong)
        self.counts["failed" if report.failed else "as natively" if self.fits.count else "without fit"] += 1

    def pytest_sessionfinish(self, session):
        if self.way == "natively":
            self.path.write_bytes(pickle.dumps(self.noted))

    def pytest_terminal_summary(self, terminalreporter):
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        terminalreporter.write_line(f"Keras's tests on {keras.config.backend()}, {self.way}: {counts}")


def name_of(item):
    """As it is in the lists: without folders."""
    return "::".join([item.path.name, *item.nodeid.split("::")[1:]])


def listed(file_name):
    """The tests in a list that are of this backend: of each what the list says of it."""
    path = FOLDER / file_name
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [[part.strip() for part in line.split("|")] for line in lines if line.strip() and not line.startswith("#")]
    return {name: words for backends, name, words in rows if keras.config.backend() in backends.split()}
