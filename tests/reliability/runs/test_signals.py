"""A signal at any moment: the batch finishes, the checkpoint is written, and the process ends as it is documented."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from reliability.runs.parts import CHECKPOINT, Settings
from reliability.runs.process import Signal

from mlpug import checkpoints

TERM, USR1, INT = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT

# Where, at which pass, and which signal. Of what is compiled, Python passes the model when it is traced.
PHASES = [
    Signal("data", 8, TERM),
    Signal("model", 1, USR1),
    Signal("batch", 7, INT),
    Signal("batch", 5, TERM),  # an epoch's last one, or the first of the next
    Signal("evaluation", 2, TERM),
    Signal("native", 2, USR1),
    Signal("epoch end", 1, TERM),
    Signal("state", 6, INT),
    Signal("fsync", 11, TERM),
    Signal("replace", 9, USR1),
    Signal("end", 1, TERM),
    Signal("start", 1, TERM),
    Signal("resuming", 1, USR1),
]
RESUMED = ("start", "resuming")  # before the first batch there is something to lose only in a run that goes on
TWICE = [Signal(place, 8, number, times=2) for place in ("batch", "state", "replace") for number in (TERM, INT)]


@pytest.fixture
def ended(backend, processes_of_runs, tmp_path, kind, whole):
    """Trains in a process that gets a signal, and then in one that goes on: what was wrong, or None."""

    def ended(sent):
        name = f"{sent.place} {sent.passes} {signal.Signals(sent.number).name} {sent.times}"
        settings = Settings(kind=kind, seed=whole.seed, folder=str(tmp_path / name))
        resume_from = None
        if sent.place in RESUMED:
            processes_of_runs.run(settings, "first", sent=Signal("batch", 4, TERM))
            resume_from = "auto"
        status = processes_of_runs.run(settings, "signalled", resume_from, sent)
        expected = expected_status(sent)
        said = (tmp_path / name / "signalled.txt").read_text()
        if status != expected or (status == 1 and not said.endswith("KeyboardInterrupt\n")):
            return f"{name}: status {status}, not {expected}: {said}"
        checkpoints.verify(tmp_path / name / CHECKPOINT)
        different = whole.differences(processes_of_runs, tmp_path / name)
        return f"{name}: {different} differ" if different else None

    return ended


def expected_status(sent):
    if sent.number == INT:
        return 0 if sent.times == 1 else 1  # the script goes on, or ends by a KeyboardInterrupt
    return 128 + sent.number if sent.times == 1 else -sent.number  # for a shell that is 128 + sent.number too


def wrong(ended, signals):
    with ThreadPoolExecutor(2) as pool:
        return [problem for problem in pool.map(ended, signals) if problem is not None]


@pytest.mark.timeout(900)
def test_one_signal_in_any_phase(backend, ended, counts):
    problems = wrong(ended, PHASES)
    counts[f"signals: {backend}"] = f"{len(PHASES) - len(problems)} of {len(PHASES)} phases right"

    assert problems == []


@pytest.mark.timeout(900)
def test_a_second_signal_ends_at_once_and_leaves_the_store_whole(backend, ended, counts):
    signals = TWICE[::5] if backend in ("tensorflow", "jax") else TWICE  # those start slowly
    problems = wrong(ended, signals)
    counts[f"second signals: {backend}"] = f"{len(signals) - len(problems)} of {len(signals)} right"

    assert problems == []
