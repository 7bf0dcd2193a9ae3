"""Which host the runs are on is said on the command line, once for each process of pytest."""

import dataclasses
import json

import pytest
from reliability.runs.hosts import host
from reliability.runs.parts import Places, Settings
from reliability.runs.process import Processes

SEED = 1


@pytest.fixture
def backend(request):
    """The host's name."""
    return request.param


@pytest.fixture
def kind(backend):
    """Of data: batches that Python makes."""
    kinds = host(backend).KINDS
    return "PyDataset" if "PyDataset" in kinds else kinds[0]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def processes_of_runs(backend, cache):
    """Starts runs on the host."""
    return Processes(backend, cache)


@dataclasses.dataclass(frozen=True, slots=True)
class Whole:
    """What a run gave that was never stopped."""

    kind: str
    seed: int
    num_epochs: int
    outcome: dict

    def differences(self, processes, folder):
        """Where the run differs that goes on in the folder, with another seed, in a process of its own."""
        settings = Settings(kind=self.kind, seed=self.seed + 100, folder=str(folder), num_epochs=self.num_epochs)
        status = processes.run(settings, "resumed", "auto")
        if status != 0:
            return [f"status {status}: {(folder / 'resumed.txt').read_text()}"]
        found = json.loads((folder / "resumed.json").read_text())
        rows = self.outcome["rows"]
        expected = {**self.outcome, "rows": rows[len(rows) - len(found["rows"]) :]}
        return [name for name, value in expected.items() if found[name] != value]


@pytest.fixture
def make_whole(backend, kind, tmp_path):
    """Makes a run that is never stopped: ``make_whole(num_epochs, **settings)``."""

    def make_whole(num_epochs, **options):
        folder = str(tmp_path / "whole")
        settings = Settings(kind=kind, seed=SEED, folder=folder, num_epochs=num_epochs, **options)
        return Whole(kind, SEED, num_epochs, host(backend).make(settings, Places()).train().outcome())

    return make_whole


@pytest.fixture
def whole(make_whole):
    return make_whole(3)
