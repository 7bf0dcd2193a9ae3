"""A compiled model that mlpug trains is what its own ``fit`` makes of it."""

from functools import partial

import numpy as np
import pytest
from compiled_models import (
    BATCH_SIZE,
    NativeRun,
    PortedRun,
    Sequence,
    arrays,
    assert_same_weights,
    batches,
    functional,
    one_layer,
    own_compute_loss,
    own_train_step,
    sequential,
    unbuilt,
    weighted,
)


def two_outputs():
    x, y = arrays()
    return x, {"kind": y, "size": x.sum(axis=1, keepdims=True)}


def distances():
    x, _ = arrays(40)
    return x, np.random.default_rng(1).random((40, 3))


def with_sample_weights():
    return (*arrays(), np.linspace(0.2, 2, len(arrays()[0]), dtype="float32"))


def as_sequence():
    return Sequence(batches())


def as_weighted_sequence():
    return Sequence(batches(with_weights=True))


CASES = {
    "sequential, arrays": (sequential, arrays, {"batch_size": BATCH_SIZE}),
    "sequential, arrays in order": (sequential, arrays, {"batch_size": BATCH_SIZE, "shuffle": False}),
    "sequential, arrays shuffled in batches": (sequential, arrays, {"batch_size": BATCH_SIZE, "shuffle": "batch"}),
    "sequential, arrays in one batch": (sequential, arrays, {}),
    "sequential, sample weights": (weighted, with_sample_weights, {"batch_size": BATCH_SIZE}),
    "sequential, class weights": (weighted, arrays, {"batch_size": BATCH_SIZE, "class_weight": {0: 1.0, 1: 3.0}}),
    "sequential, PyDataset": (sequential, as_sequence, {}),
    "sequential, PyDataset in order": (sequential, as_sequence, {"shuffle": False}),
    "sequential, PyDataset with sample weights": (weighted, as_weighted_sequence, {}),
    "sequential, PyDataset with class weights": (weighted, as_sequence, {"class_weight": {0: 1.0, 1: 3.0}}),
    "one layer, a weighted loss": (partial(one_layer, loss_weights=0.7), distances, {"batch_size": 20}),
    "one layer, a loss weighted more": (partial(one_layer, loss_weights=3.3), distances, {"batch_size": 20}),
    "unbuilt, arrays": (unbuilt, arrays, {"batch_size": BATCH_SIZE}),
    "unbuilt, PyDataset": (unbuilt, as_sequence, {}),
    "functional, two outputs": (functional, two_outputs, {"batch_size": BATCH_SIZE}),
    "own compute_loss": (own_compute_loss, arrays, {"batch_size": BATCH_SIZE}),
    "own train_step": (own_train_step, arrays, {"batch_size": BATCH_SIZE}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_trains_as_fit_does(backend, case):
    make, data, options = CASES[case]
    validates = list(CASES).index(case) % 2 == 0
    if validates:
        options = options | {"validation_data": data() if data in (two_outputs, distances) else arrays()}
    native = NativeRun(make, data, **options)
    ported = PortedRun(backend.mlp, make, data, **options).start()
    assert ported.logs.seen == native.logs.seen
    assert_same_weights(ported.model, native.model)
    in_ours = [(kind, step, training) for kind, step, *_, training in ported.ours.seen if kind == "batch_end"]
    assert in_ours == [event for event in native.logs.seen if event[0] == "batch_end"]
    epochs = [event for event in ported.ours.seen if event[0] == "epoch_end"]
    for (_, _, training, validation), (_, _, logs) in zip(
        epochs, [event for event in native.logs.seen if event[0] == "epoch_end"], strict=True
    ):
        expected = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        assert training == {name: value for name, value in logs.items() if not name.startswith("val_")}
        assert validation == ({"dataset": expected} if validates else None)
