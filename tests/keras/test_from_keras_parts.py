"""What mlpug adds to a compiled model's own ``fit``: chunks, evaluation, native callbacks in its list, early errors."""

import inspect

import keras
import numpy as np
import pytest
from compiled_models import (
    BATCH_SIZE,
    NativeRun,
    OwnTrainStep,
    PortedRun,
    Sequence,
    arrays,
    assert_same_weights,
    batches,
    compiled,
    functional,
    layers,
    own_compute_loss,
    own_train_step,
    sequential,
    unbuilt,
)

from mlpug.callbacks import Callback, CheckpointManager, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # sums of a few single-precision numbers in another order
IN_ORDER = {"batch_size": BATCH_SIZE, "shuffle": False, "validation_data": arrays(9, seed=1)}


def deterministic(metrics=("accuracy",)):
    """Without anything that looks at the other samples of a batch, or draws numbers."""
    layers = [keras.Input((5,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    return compiled(keras.Sequential(layers), metrics=list(metrics))


def deterministic_regularized():
    layers = [
        keras.Input((5,)),
        keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.1)),
        keras.layers.Dense(3),
    ]
    return compiled(keras.Sequential(layers))


def two_outputs():
    x, y = arrays(24)  # batches of one length: Keras on TensorFlow counts batches of unknown length as one sample
    return x, {"kind": y, "size": x.sum(axis=1, keepdims=True)}


def numbers(seen):
    return [value for *_, logs in seen for _, value in sorted(logs.items())]


@pytest.mark.parametrize("make", [deterministic, deterministic_regularized])
@pytest.mark.parametrize("chunk_size", [4, 6])
def test_chunks_give_what_the_whole_batch_gives(backend, make, chunk_size):
    native = NativeRun(make, arrays, **IN_ORDER)
    ported = PortedRun(backend.mlp, make, arrays, batch_chunk_size=chunk_size, **IN_ORDER).start()
    assert [event[:2] for event in ported.logs.seen] == [event[:2] for event in native.logs.seen]
    np.testing.assert_allclose(numbers(ported.logs.seen), numbers(native.logs.seen), **SINGLE)
    for one, other in zip(ported.model.get_weights(), native.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, **SINGLE)


def test_batches_of_the_dataset_are_joined(backend):
    joined = [
        tuple(np.concatenate(parts) for parts in zip(*batches()[start : start + 3], strict=True)) for start in (0, 3)
    ]
    native = NativeRun(deterministic, lambda: Sequence(joined), shuffle=False)
    ported = PortedRun(backend.mlp, deterministic, batches, gradient_accumulation_steps=3).start()
    np.testing.assert_allclose(numbers(ported.logs.seen), numbers(native.logs.seen), **SINGLE)


def test_chunks_are_resumed_exactly(backend, tmp_path):
    options = {**IN_ORDER, "shuffle": True, "batch_chunk_size": 4}
    whole = PortedRun(backend.mlp, unbuilt, arrays, folder=tmp_path, **options).start()
    for place in (1, 3, 6):
        resumed = PortedRun(backend.mlp, unbuilt, arrays, **options).start(whole.keeper.saved[place][0])
        assert_same_weights(resumed.model, whole.model)
        assert resumed.ours.seen == whole.ours.seen[len(whole.ours.seen) - len(resumed.ours.seen) :]


@pytest.mark.parametrize("make", [sequential, own_compute_loss, own_train_step])
def test_the_loss_of_a_batch_is_its_own(backend, make):
    ported = PortedRun(backend.mlp, make, arrays, **IN_ORDER, num_epochs=1).start()
    seen = [(step, loss, means["loss"]) for _, step, loss, means in ported.ours.seen[:-1]]
    # Keras's own mean over the epoch so far is over samples; that of the model with a train_step is over batches.
    weights = [1, 1, 1, 1] if make is own_train_step else [6, 6, 6, 4]
    for step, _, mean in seen:
        losses = [loss for _, loss, _ in seen[: step + 1]]
        assert mean == pytest.approx(np.average(losses, weights=weights[: step + 1]), rel=1e-6)
    assert len({loss for _, loss, _ in seen}) == 4


def test_metrics_of_mlpug_see_the_loss_of_each_batch(backend):
    keras.utils.set_random_seed(5)
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(sequential(), batch_size=BATCH_SIZE)
    logger = TrainingMetricsLogger(metric_evaluator=MetricEvaluator(trainer=trainer), sliding_window_length=4)
    manager = TrainingManager(trainer, arrays(), callbacks=[logger])
    manager.start_training()
    plain = PortedRun(backend.mlp, sequential, arrays, batch_size=BATCH_SIZE, num_epochs=1).start()
    losses = [event[2] for event in plain.ours.seen if event[0] == "batch_end"]
    assert manager.logs.at("training.sliding_window.loss") == pytest.approx(np.average(losses, weights=[6, 6, 6, 4]))


@pytest.mark.parametrize("make", [unbuilt, own_train_step])
def test_a_batch_is_evaluated_by_the_compiled_loss(backend, make):
    trained = PortedRun(backend.mlp, make, arrays, **IN_ORDER).start()
    before = trained.trainer.native.get_weights()
    evaluated = MetricEvaluator(trainer=trained.trainer).evaluate_dataset(batches())
    expected = trained.model.evaluate(*arrays(), batch_size=BATCH_SIZE, return_dict=True, verbose=0)
    if make is own_train_step:  # its mean is over batches
        losses = [trained.model.evaluate(*batch, return_dict=True, verbose=0)["loss"] for batch in batches()]
        expected = {"loss": np.average(losses, weights=[6, 6, 6, 4])}
    assert evaluated["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for one, other in zip(trained.trainer.native.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    if make is unbuilt:
        output = trained.trainer.adapter.evaluate(batches()[0], None)
        predictions = trained.model.predict_on_batch(batches()[0][0])
        np.testing.assert_allclose(np.asarray(output.auxiliary_results), predictions, **SINGLE)


@pytest.mark.parametrize("make", [sequential, own_train_step])
def test_to_evaluate_between_batches_changes_nothing(backend, make):
    class Evaluates(Callback):
        def on_batch_training_completed(self, batch, logs):
            trainer = self.manager.trainer
            trainer.adapter.evaluate(batches()[0], None)
            trainer.set_learning_rate(trainer.adapter.learning_rates()["optimizer"])
            trainer.native.get_weights()

    plain = PortedRun(backend.mlp, make, arrays, **IN_ORDER).start()
    watched = PortedRun(backend.mlp, make, arrays, callbacks=[Evaluates()], **IN_ORDER).start()
    assert watched.logs.seen == plain.logs.seen
    assert_same_weights(watched.model, plain.model)


def natives(folder):
    return [
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=0, min_delta=10.0),
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}-{val_loss:.6f}.weights.h5"), save_weights_only=True),
        keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=10.0, patience=2, restore_best_weights=True),
    ]


def test_native_callbacks_do_what_they_do_natively(backend, tmp_path):
    (tmp_path / "native").mkdir()
    (tmp_path / "ported").mkdir()
    native = NativeRun(sequential, arrays, callbacks=natives(tmp_path / "native"), num_epochs=6, **IN_ORDER)
    ported = PortedRun(
        backend.mlp, sequential, arrays, natives=natives(tmp_path / "ported"), num_epochs=6, **IN_ORDER
    ).start()
    assert ported.logs.seen == native.logs.seen
    assert len([event for event in native.logs.seen if event[0] == "epoch_end"]) < 6
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("native", "ported")]
    assert files[0] == files[1]
    assert len(files[0]) == 3
    assert_same_weights(ported.model, native.model)
    assert float(ported.model.optimizer.learning_rate) == float(native.model.optimizer.learning_rate)


def test_the_model_is_left_as_it_was(backend):
    ported = PortedRun(backend.mlp, sequential, arrays, **IN_ORDER)
    attributes = set(vars(ported.model))
    ported.start()
    assert set(vars(ported.model)) - attributes <= {"history", "_jax_state", "stop_evaluating", "_eval_epoch_iterator"}
    assert ported.trainer.native is ported.model
    native = NativeRun(sequential, arrays, **IN_ORDER)
    for model in (ported.model, native.model):
        keras.utils.set_random_seed(6)
        model.fit(*arrays(), verbose=0, shuffle=False)
    assert_same_weights(ported.model, native.model)


def test_what_the_trainer_is_made_of(backend):
    model = sequential()
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model)
    assert isinstance(trainer, backend.mlp.trainers.DefaultTrainer)
    assert trainer.model_components == {"model": model}
    assert trainer.optimizers == {"optimizer": model.optimizer}
    with pytest.raises(ConfigurationError, match="don't call set_training_model"):
        trainer.set_training_model(model)


class OwnTrainFunction(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)


def scheduled():
    model = sequential()
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)), "mse")
    return model


def without_optimizer():
    model = sequential()
    model.optimizer = None
    return model


def of_several_steps():
    return compiled(keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), steps_per_execution=2)


BAD = {
    "not compiled": (lambda: keras.Sequential([keras.Input((5,))]), {}, r"isn't compiled: call model.compile"),
    "a layer": (lambda: keras.layers.Dense(2), {}, "takes a compiled keras.Model"),
    "a class": (lambda: OwnTrainStep, {}, "an instance, not the class"),
    "several steps": (of_several_steps, {}, "steps_per_execution=2"),
    "no optimizer": (without_optimizer, {}, "without an optimizer"),
    "chunks, own train_step": (own_train_step, {"batch_chunk_size": 2}, "has a train_step of its own"),
    "groups, own train_step": (own_train_step, {"gradient_accumulation_steps": 2}, "write compute_loss in its place"),
    "chunks, own train function": (
        lambda: compiled(OwnTrainFunction([keras.Input((5,)), keras.layers.Dense(3)])),
        {"batch_chunk_size": 2},
        "has a make_train_function of its own",
    ),
    "batch size": (sequential, {"batch_size": 0}, "batch_size must be a whole number of at least 1"),
    "shuffle": (sequential, {"shuffle": "samples"}, "shuffle must be"),
    "class weights": (sequential, {"class_weight": [1, 2]}, "class_weight must be a dict"),
    "validation steps": (sequential, {"validation_steps": 2}, "used with validation_data only"),
    "epochs": (
        sequential,
        {"epochs": 3},
        r"^from_keras doesn't take epochs: pass TrainingManager\(num_epochs=\.\.\.\)\.$",
    ),
    "callbacks": (sequential, {"callbacks": []}, r"doesn't take callbacks: pass them to TrainingManager\(callbacks="),
    "verbose": (sequential, {"verbose": 1}, r"doesn't take verbose: put mlp\.callbacks\.LogProgress\(\)"),
    "several of fit": (
        sequential,
        {"y": 1, "steps_per_epoch": 2},
        r"take y: pass the data to .* It doesn't take steps_per",
    ),
    "misspelt": (sequential, {"batch_sise": 2}, r"doesn't take 'batch_sise'\. Did you mean batch_size\?"),
    "unlike any": (
        sequential,
        {"qqq": 2},
        r"doesn't take 'qqq'\. It takes validation_data, .*chunkable_batch_wrapper\.",
    ),
}


def test_every_argument_of_fit_is_taken_or_has_a_place(backend):
    of_fit = set(inspect.signature(keras.Model.fit).parameters) - {"self"}
    taken = set(inspect.signature(backend.mlp.trainers.DefaultTrainer.from_keras).parameters)
    for name in of_fit - taken:
        with pytest.raises(ConfigurationError, match=f"^from_keras doesn't take {name}: "):
            backend.mlp.trainers.DefaultTrainer.from_keras(sequential(), **{name: None})


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_when_the_trainer_is_made(backend, case):
    make, options, message = BAD[case]
    with pytest.raises(ConfigurationError, match=message):
        backend.mlp.trainers.DefaultTrainer.from_keras(make(), **options)


x, y = arrays()
BAD_DATA = {
    "a list of arrays": ([x, y], {}, "may be .* or a list of batches"),
    "a tuple of batches": (((x, y), (x, y)), {}, "Training data as a tuple must be"),
    "lengths": ((x, y[:3]), {}, "can't be cut into batches"),
    "batch size": ([(x, y)], {"batch_size": 3}, "leave batch_size out"),
    "twice weighted": ((x, y, y), {"class_weight": {0: 2.0}}, "class_weight"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_when_the_manager_is_made(backend, case):
    data, options, message = BAD_DATA[case]
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(sequential(), **options)
    with pytest.raises(ConfigurationError, match=message):
        TrainingManager(trainer, data)


def test_class_weights_need_targets_only(backend):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(sequential(), class_weight={0: 2.0})
    with pytest.raises(DatasetError, match="a batch must be"):
        TrainingManager(trainer, batches(with_weights=True)).start_training()


def test_keras_own_way_to_go_on_is_refused(backend, tmp_path):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(sequential())
    with pytest.raises(ConfigurationError, match=r"BackupAndRestore .*start_training.resume_from='auto'"):
        TrainingManager(trainer, arrays(), callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])


def test_a_metric_that_nobody_writes_is_an_early_error(backend):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(sequential())
    with pytest.raises(ConfigurationError, match=r"validation.dataset.loss.*nobody writes"):
        TrainingManager(trainer, arrays(), callbacks=[CheckpointManager(batch_level=False)])


def metrics_by_name():
    return compiled(
        keras.Sequential([keras.Input((5,)), *layers()]),
        metrics=["accuracy", "sparse_top_k_categorical_accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True)],
    )


@pytest.mark.parametrize("make", [sequential, metrics_by_name])
def test_what_fit_will_log_is_known_before(backend, make):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(make(), validation_data=arrays())
    manager = TrainingManager(trainer, arrays())
    manager.start_training()
    current = manager.logs["current"]
    assert sorted(trainer.logs_itself) == sorted(
        ["training.batch"]
        + [f"training.epoch.{name}" for name in current["training"]["epoch"]]
        + [f"validation.dataset.{name}" for name in current["validation"]["dataset"]]
    )
    misspelled = CheckpointManager(batch_level=False, metric_to_monitor="validation.dataset.acuracy")
    again = backend.mlp.trainers.DefaultTrainer.from_keras(make(), validation_data=arrays())
    with pytest.raises(
        ConfigurationError, match=r"validation.dataset.acuracy.*nobody writes.*validation.dataset.accuracy"
    ):
        TrainingManager(again, arrays(), callbacks=[misspelled])


class Look(Callback):
    def __init__(self, path):
        self.path = path

    def on_batch_training_completed(self, batch, logs):
        assert logs.at(self.path) is None


@pytest.mark.parametrize("path", ["training.batch.los", "training.batch.accuracy", "training.epoch.los"])
def test_a_look_at_what_fit_doesnt_log_is_an_error(backend, path):
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(sequential())
    with pytest.raises(ConfigurationError, match=rf"logs.at\('{path}'\): nobody writes that path.* Known are "):
        TrainingManager(trainer, arrays(), callbacks=[Look(path)]).start_training()


def test_a_step_of_the_models_own_may_log_anything_and_a_slip_of_the_pen_is_told(backend):
    def train(path):
        trainer = backend.mlp.trainers.DefaultTrainer.from_keras(own_train_step())
        TrainingManager(trainer, arrays(), callbacks=[Look(path)]).start_training()

    train("training.batch.anything")
    with pytest.warns(MlpugWarning, match=r"training.batch.los'.* mean training.batch.loss\?"):
        train("training.batch.los")


def test_a_learning_rate_with_a_schedule_is_read_and_not_set(backend):
    read = []

    class Reads(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            read.append(trainer.adapter.learning_rates()["optimizer"])

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)), "mse")
    trainer = backend.mlp.trainers.DefaultTrainer.from_keras(model, batch_size=11)
    TrainingManager(trainer, arrays(), callbacks=[Reads()]).start_training()
    assert read == pytest.approx([0.05, 0.025])
    with pytest.raises(ConfigurationError, match="schedule of its own"):
        trainer.set_learning_rate(0.1)


def test_functional_model_in_chunks(backend):
    native = NativeRun(functional_without_dropout, two_outputs, batch_size=BATCH_SIZE, shuffle=False)
    ported = PortedRun(
        backend.mlp, functional_without_dropout, two_outputs, batch_size=BATCH_SIZE, shuffle=False, batch_chunk_size=4
    ).start()
    np.testing.assert_allclose(numbers(ported.logs.seen), numbers(native.logs.seen), **SINGLE)


def functional_without_dropout():
    model = functional()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return model
