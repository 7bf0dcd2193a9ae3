"""A compiled model on tf.data: as its own ``fit`` trains it, and resumed."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from compiled_models import (
    NativeRun,
    OwnTrainStep,
    PortedRun,
    arrays,
    assert_same_weights,
    compiled,
    layers,
    noting_order,
    own_train_step,
    sequential,
    unbuilt,
)

import mlpug.tensorflow as mlp
from mlpug.errors import DatasetError

OPTIONS = {
    "as it is": {},
    "class weights": {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
    "validation": {"validation_data": arrays(9, seed=1)},
}


def shuffled():
    return tf.data.Dataset.from_tensor_slices(arrays()).shuffle(22, seed=3).batch(6)


def endless():
    return shuffled().repeat()


def of_unknown_length(drop_remainder=False):
    """Only the step after the last batch of an epoch finds out that there is no other."""
    samples = tf.data.Dataset.from_tensor_slices(arrays()).filter(lambda x, y: True)
    return samples.shuffle(22, seed=3).batch(6, drop_remainder)


def decayed():
    """Each step changes its weights, whatever it is trained on."""
    model = compiled(keras.Sequential([keras.Input((5,)), *layers()]))
    model.compile(keras.optimizers.AdamW(0.02, weight_decay=0.1, use_ema=True), loss=model.loss, metrics=["accuracy"])
    return model


def own_train_function():
    class Model(OwnTrainStep):
        def make_train_function(self, force=False):
            return super().make_train_function(force)

    model = Model()
    model.compile(keras.optimizers.Adam(0.02))
    return model


UNKNOWN = {
    "sequential": sequential,
    "weight decay": decayed,
    "own train_step": own_train_step,
    "own make_train_function": own_train_function,
    "eager": lambda: sequential(run_eagerly=True),
    "compiled by XLA": lambda: sequential(jit_compile=True),
}


def assert_same_state(model, expected):
    """Also of what is drawn next, and of how many steps the optimizer has counted."""
    assert_same_weights(model, expected)
    for one, other in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(model.optimizer.variables, expected.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)


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


@pytest.mark.parametrize(("make_data", "steps"), [(shuffled, None), (shuffled, 2), (of_unknown_length, None)])
def test_validation_data_goes_on_in_the_order_that_it_would_have_had(make_data, steps, tmp_path):
    def run(**more):
        keras.utils.set_random_seed(5)  # which the seeds of a shuffle depend on, where it is made
        options = {"validation_data": make_data(), "validation_steps": steps}
        return PortedRun(mlp, noting_order, shuffled, num_epochs=3, **options, **more)

    whole = run(folder=tmp_path).start()
    assert len({logs["val_order"] for kind, _, logs in whole.logs.seen if kind == "epoch_end"}) > 1
    for place in (3, 4, 6):  # before the first epoch is validated and after it, and within the second one
        resumed = run().start(whole.keeper.saved[place][0])
        assert resumed.logs.seen == whole.logs.seen[len(whole.logs.seen) - len(resumed.logs.seen) :]


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


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # how fit learns of it
@pytest.mark.parametrize(
    ("name", "drop_remainder"),
    [*[(name, False) for name in UNKNOWN], ("sequential", True), ("own make_train_function", True)],
)
def test_the_step_that_finds_no_batch_changes_what_it_changes_in_fit(name, drop_remainder):
    make = UNKNOWN[name]
    native = NativeRun(make, lambda: of_unknown_length(drop_remainder), num_epochs=3, shuffle=False)
    ported = PortedRun(mlp, make, lambda: of_unknown_length(drop_remainder), num_epochs=3).start()
    assert ported.logs.seen == native.logs.seen
    assert_same_state(ported.model, native.model)


@pytest.mark.parametrize("make", [decayed, own_train_function])
def test_data_of_unknown_length_goes_on_after_any_batch(make, tmp_path):
    whole = PortedRun(mlp, make, of_unknown_length, folder=tmp_path).start()
    assert [count for _, count in whole.keeper.saved[2:6]] == [3, 4, 4, 5]
    for path, _ in whole.keeper.saved[2:6]:
        resumed = PortedRun(mlp, make, of_unknown_length).start(path)
        assert resumed.logs.seen == whole.logs.seen[len(whole.logs.seen) - len(resumed.logs.seen) :]
        assert_same_state(resumed.model, whole.model)


def test_in_chunks_only_batches_are_steps():
    ported = PortedRun(mlp, sequential, of_unknown_length, batch_chunk_size=3).start()
    assert int(ported.model.optimizer.iterations.numpy()) == 2 * 4


def test_epochs_of_a_length_go_on_in_the_data_as_in_fit():
    native = NativeRun(sequential, lambda: of_unknown_length().repeat(), num_epochs=3, shuffle=False, steps_per_epoch=3)
    ported = PortedRun(mlp, sequential, lambda: of_unknown_length().repeat(), num_epochs=3, num_batches_per_epoch=3)
    assert ported.start().logs.seen == native.logs.seen
    assert_same_state(ported.model, native.model)


def test_an_epoch_for_which_the_epochs_before_left_nothing_is_an_error():
    """``fit`` has an epoch without batches there."""
    ported = PortedRun(mlp, sequential, of_unknown_length, num_batches_per_epoch=4)
    with pytest.raises(DatasetError, match=r"no batches in epoch 1.*num_batches_per_epoch.*leave that out"):
        ported.start()
