"""What the reliability tests share: a process in which file-system calls can be struck, and what was counted."""

import collections
import pathlib
import shutil
import subprocess

import pytest
from reliability.struck import StruckProcesses

HERE = pathlib.Path(__file__).parent
COUNTS = pytest.StashKey[collections.Counter]()


def pytest_configure(config):
    config.stash[COUNTS] = collections.Counter()


@pytest.fixture
def counts(request):
    """What is printed at the end of the run, by name: ``counts["kill points"] += 40``; a value may be a text too."""
    return request.config.stash[COUNTS]


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash[COUNTS]
    if counts:
        terminalreporter.section("reliability")
    for name, value in counts.items():
        terminalreporter.write_line(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory):
    """The library that strikes, compiled for this machine. Without a compiler nothing here is shown, so it fails."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the reliability tests need a C compiler, cc or gcc, on the PATH"
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-pthread",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        library,
        HERE / "faults.c",
        "-ldl",
    ]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert compiled.returncode == 0, compiled.stderr
    return library


@pytest.fixture(scope="session")
def processes(faults_library):
    """Runs operations on checkpoints in processes of their own, each struck at one call."""
    with StruckProcesses(faults_library) as processes:
        yield processes
