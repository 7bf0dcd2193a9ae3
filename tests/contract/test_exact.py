"""Training and metrics are exact: compared with loops written by hand, bit for bit."""

import math
from fractions import Fraction

import numpy as np
from contract.backends.base import assert_same_losses, assert_same_weights, make_batches

from mlpug.callbacks import Callback, LogProgress, TestMetricsLogger, TrainingMetricsLogger
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.trainers import TrainingManager


class Record(Callback):
    """Keeps what the logs say after each batch and epoch."""

    def __init__(self):
        self.losses, self.window_losses, self.validation_losses, self.did_update = [], [], [], []

    def on_batch_training_completed(self, batch, logs):
        training = logs["current"]["training"]
        self.losses.append(training["batch"]["loss"])
        self.window_losses.append(training["sliding_window"]["loss"])
        self.did_update.append(training["batch"]["did_update_model"])

    def on_epoch_completed(self, logs):
        self.validation_losses.append(logs.at("validation.dataset.loss"))


def train(backend, batches, num_epochs, callbacks=(), **arguments):
    trainer = backend.trainer()
    manager = TrainingManager(trainer, batches, num_epochs=num_epochs, callbacks=callbacks, **arguments)
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    return trainer


def test_three_epochs_with_hello_worlds_callbacks_equal_a_hand_written_loop(backend):
    batches, validation_batches = make_batches(), make_batches((4, 3), seed=1)
    expected_weights, expected_losses = backend.train_by_hand(batches, num_epochs=3)
    trainer = backend.trainer()
    evaluator = MetricEvaluator(trainer=trainer)
    record = Record()
    callbacks = [
        TrainingMetricsLogger(metric_evaluator=evaluator),
        TestMetricsLogger(validation_batches, "validation", metric_evaluator=evaluator, batch_level=False),
        LogProgress(log_period=2, set_names=["training", "validation"]),
        record,
    ]
    manager = TrainingManager(trainer, batches, num_epochs=3, callbacks=callbacks)
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    assert_same_weights(backend, expected_weights)
    assert_same_losses(backend, record.losses, expected_losses)
    assert record.did_update == [True] * len(expected_losses)
    assert len(set(expected_losses)) == len(expected_losses) == 12


def test_the_sliding_window_is_the_mean_over_the_samples_of_its_batches(backend):
    batches, record = make_batches(), Record()
    trainer = backend.trainer()
    logger = TrainingMetricsLogger(MetricEvaluator(trainer=trainer), sliding_window_length=3)
    manager = TrainingManager(trainer, batches, num_epochs=2, callbacks=[logger, record])
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    sizes, losses = [len(y) for _, y in batches] * 2, record.losses
    for index, value in enumerate(record.window_losses):
        window = range(max(0, index - 2), index + 1)
        mean = sum(Fraction(losses[i]) * sizes[i] for i in window) / sum(sizes[i] for i in window)
        assert value == float(mean)


def test_a_datasets_loss_is_the_mean_over_its_samples_with_a_last_batch_of_another_size(backend):
    batches = make_batches((8, 8, 3))
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    per_sample = MetricEvaluator(
        trainer=trainer,
        metrics={"errors": Metric(lambda batch, output: (output.auxiliary_results, batch[1]), _squared_errors)},
    )
    evaluated = per_sample.evaluate_dataset(batches)
    assert len(evaluated["errors"]) == 19
    precision = 1e-14 if backend.is_bit_equal else 1e-6  # double and single precision
    np.testing.assert_allclose(evaluated["loss"], math.fsum(evaluated["errors"]) / 19, rtol=precision)
    by_batch = [per_sample.evaluate_batch(batch)["loss"] for batch in batches]
    weighted = sum(Fraction(loss) * size for loss, size in zip(by_batch, (8, 8, 3), strict=True)) / 19
    assert evaluated["loss"] == float(weighted)
    assert evaluated["loss"] != sum(by_batch) / 3


def _squared_errors(inputs):
    predictions, targets = inputs
    return (predictions - targets) ** 2


def test_evaluating_in_chunks_gives_the_metrics_of_the_whole_batch(backend):
    batches = make_batches((8, 7))
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    metrics = {"largest": Metric(lambda batch, output: output.auxiliary_results, np.max)}
    whole = MetricEvaluator(trainer=trainer, metrics=metrics).evaluate_dataset(batches)
    in_chunks = MetricEvaluator(trainer=trainer, metrics=metrics, batch_chunk_size=3).evaluate_dataset(batches)
    # Sums over samples in another order, and matrix products of other shapes: the last bits may differ.
    precision = 1e-13 if backend.is_bit_equal else 1e-5  # these compute in double precision, the others in single
    np.testing.assert_allclose(in_chunks["loss"], whole["loss"], rtol=precision)
    np.testing.assert_allclose(in_chunks["largest"], whole["largest"], rtol=precision)


def test_evaluating_changes_nothing_in_training(backend):
    batches = make_batches()
    expected_weights, _ = backend.train_by_hand(batches, num_epochs=2)
    trainer = backend.trainer()
    evaluator = MetricEvaluator(trainer=trainer)
    logger = TestMetricsLogger(make_batches(seed=2), "validation", metric_evaluator=evaluator, batch_level=True)
    manager = TrainingManager(trainer, batches, num_epochs=2, callbacks=[logger])
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    assert_same_weights(backend, expected_weights)


def test_a_second_manager_trains_on_from_where_the_first_ended(backend):
    batches = make_batches()
    expected_weights, _ = backend.train_by_hand(batches, num_epochs=3)
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    TrainingManager(trainer, batches, num_epochs=1).start_training()
    TrainingManager(trainer, batches, num_epochs=2).start_training()
    assert_same_weights(backend, expected_weights)


def test_the_training_model_knows_whether_it_trains(backend):
    modes = []
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model(spy=lambda batch, settings, mode: modes.append(mode)))
    manager = TrainingManager(trainer, make_batches((4, 4)))
    manager.start_training()
    assert set(modes) == {False}
    modes.clear()
    MetricEvaluator(trainer=trainer).evaluate_dataset(make_batches((4, 4)))
    assert set(modes) == {True}


def test_settings_take_effect_in_the_next_batch(backend):
    losses, scales = [], [None, 10.0, 100.0]

    class ChangeSettings(Callback):
        def on_batch_training_completed(self, batch, logs):
            losses.append(logs.at("training.batch.loss"))
            logs["training_settings"] = {"scale": scales[len(losses)]} if len(losses) < 3 else None

    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    evaluator = MetricEvaluator(trainer=trainer)
    batch = make_batches((4,))[0]
    unscaled = []

    class Look(Callback):
        def on_batch_training_start(self, batch_data, logs):
            unscaled.append(evaluator.evaluate_batch(batch, {"scale": 1.0})["loss"])

    callbacks = [Look(), TrainingMetricsLogger(evaluator), ChangeSettings()]
    backend.without_dropout()
    TrainingManager(trainer, [batch] * 3, callbacks=callbacks).start_training()
    np.testing.assert_allclose(losses, [unscaled[0], 10 * unscaled[1], 100 * unscaled[2]], rtol=1e-5)
    assert (
        evaluator.evaluate_batch(batch, {"scale": 2.0})["loss"]
        > evaluator.evaluate_batch(batch, {"scale": 1.0})["loss"]
    )


def test_evaluating_within_an_epoch_sees_the_weights_of_that_batch(backend):
    batches, evaluated = make_batches(), []
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    evaluator = MetricEvaluator(trainer=trainer)

    class Evaluate(Callback):
        def on_batch_training_completed(self, batch, logs):
            evaluated.append((evaluator.evaluate_batch(batches[0])["loss"], backend.weights()))

    TrainingManager(trainer, batches, callbacks=[Evaluate()]).start_training()
    for step in range(len(batches)):
        expected, _ = backend.train_by_hand(batches[: step + 1], num_epochs=1)
        for name, weight in evaluated[step][1].items():
            np.testing.assert_allclose(weight, expected[name], rtol=1e-5, atol=1e-7)
    assert len({loss for loss, _ in evaluated}) == len(batches)
