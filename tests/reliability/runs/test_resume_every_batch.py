"""A run that goes on from any rest, in a fresh process's place and with another seed, equals one that never stopped."""

import gc
from itertools import chain

import pytest
from reliability.runs.hosts import host
from reliability.runs.parts import Places, Settings, kept_state

NUM_EPOCHS = 3
SEED = 1


@pytest.fixture
def train(backend, tmp_path):
    """Makes a fresh run, and trains: ``train(kind, seed, resume_from, **settings)``."""

    def train(kind, seed, resume_from=None, **settings):
        gc.collect()  # iterators of an earlier run would be forked into this one's loading processes
        made = Settings(kind=kind, seed=seed, folder=str(tmp_path / f"checkpoints-{seed}"), **settings)
        return host(backend).make(made, Places()).train(resume_from).outcome()

    return train


def expected_of(whole, rest):
    """What a run gives that was resumed at this rest: rests and rows are of the same batches and epochs."""
    return {**whole, "rows": whole["rows"][rest + 1 :]}


def differences(found, expected):
    return [name for name, value in expected.items() if found[name] != value]


def test_resumed_at_every_rest_with_another_seed(backend, train, tmp_path, counts):
    for kind in host(backend).KINDS:
        keep = tmp_path / f"kept, {kind}"
        keep.mkdir()
        whole = train(kind, SEED, keep=str(keep))
        rests = len(list(keep.iterdir()))
        failed = {}
        for rest in range(rests):
            resumed = train(kind, 100 + rest, kept_state(keep, rest))
            different = differences(resumed, expected_of(whole, rest))
            failed |= {rest: different} if different else {}
        counts[f"resume: {backend}, {kind}"] = f"{rests - len(failed)} of {rests} rests equal"

        assert failed == {}
        assert rests == len(whole["rows"]) == NUM_EPOCHS + sum(row[0] == "batch" for row in whole["rows"]) >= 15


def test_the_run_has_what_could_be_lost(backend, train):
    """Each seed has another result, or nothing would be shown; and the data comes in an order of its own."""
    kind = host(backend).KINDS[0]
    first, again, other = (train(kind, seed) for seed in (SEED, SEED, SEED + 1))
    orders = [[row[4] for row in first["rows"] if row[:2] == ["batch", epoch]] for epoch in range(NUM_EPOCHS)]

    assert first == again
    assert first["weights"] != other["weights"]
    assert first["rows"][0] != other["rows"][0]
    assert orders[0] != orders[1] != orders[2]
    assert sorted(chain(*orders[0])) == sorted(chain(*orders[1]))
    rates = [row[7] for row in first["rows"] if row[0] == "batch"]
    assert len(set(rates)) == len(rates)


def test_patience_is_counted_over_a_resume(backend, train, tmp_path):
    kind = host(backend).KINDS[-1]
    whole = train(kind, SEED, keep=str(tmp_path), num_epochs=5, patience=2)
    ended = [index for index, row in enumerate(whole["rows"]) if row[0] == "epoch"]

    assert len(ended) == 3  # the first is the best, and two come after it
    for rest in (ended[0], ended[1] - 1, ended[1], ended[2] - 1):
        resumed = train(kind, 100 + rest, kept_state(tmp_path, rest), num_epochs=5, patience=2)
        assert differences(resumed, expected_of(whole, rest)) == []
