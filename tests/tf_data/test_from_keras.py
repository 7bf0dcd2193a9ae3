"""A compiled model on tf.data: as its own ``fit`` trains it, and resumed."""

import numpy as np
import pytest
import tensorflow as tf
from compiled_models import NativeRun, PortedRun, arrays, assert_same_weights, unbuilt

import mlpug.tensorflow as mlp

OPTIONS = {
    "as it is": {},
    "class weights": {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
    "validation": {"validation_data": arrays(9, seed=1)},
}


def shuffled():
    return tf.data.Dataset.from_tensor_slices(arrays()).shuffle(22, seed=3).batch(6)


def endless():
    return shuffled().repeat()


@pytest.mark.parametrize("case", OPTIONS)
def test_it_trains_as_fit_does(case):
    native = NativeRun(unbuilt, shuffled, shuffle=False, **OPTIONS[case])
    ported = PortedRun(mlp, unbuilt, shuffled, **OPTIONS[case]).start()
    assert ported.logs.seen == native.logs.seen
    assert_same_weights(ported.model, native.model)


def test_it_goes_on_after_a_batch_as_if_it_had_never_stopped(tmp_path):
    options = OPTIONS["validation"]
    whole = PortedRun(mlp, unbuilt, shuffled, folder=tmp_path, **options).start()
    for place in (1, 3, 4, 6):
        resumed = PortedRun(mlp, unbuilt, shuffled, **options).start(whole.keeper.saved[place][0])
        assert resumed.logs.seen == whole.logs.seen[len(whole.logs.seen) - len(resumed.logs.seen) :]
        assert_same_weights(resumed.model, whole.model)


def test_an_endless_dataset_with_epochs_of_a_length():
    native = NativeRun(unbuilt, endless, shuffle=False, steps_per_epoch=3)
    ported = PortedRun(mlp, unbuilt, endless, num_batches_per_epoch=3).start()
    assert ported.logs.seen == native.logs.seen


def test_batches_of_one_known_length_give_the_same_bits():
    x, y = arrays(24)
    native, ported = (
        run(unbuilt, lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(6, drop_remainder=True))
        for run in (lambda *given: NativeRun(*given, shuffle=False), lambda *given: PortedRun(mlp, *given).start())
    )
    assert ported.logs.seen == native.logs.seen
    np.testing.assert_equal(ported.model.get_weights(), native.model.get_weights())
