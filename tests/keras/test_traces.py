"""How often the training model's Python code runs: when it is traced, and at each batch in eager mode."""

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback, TrainingMetricsLogger
from mlpug.errors import ConfigurationError
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

SIGNATURE = (keras.KerasTensor((None, 6), "float64"), keras.KerasTensor((None,), "float64"))


class Traced:
    """Counts the calls of the training model's code: those to train, and those to evaluate."""

    def __init__(self):
        self.to_train = self.to_evaluate = 0

    def __call__(self, batch_data, evaluate_settings, inference_mode):
        if inference_mode:
            self.to_evaluate += 1
        else:
            self.to_train += 1


class CountPerEpoch(Callback):
    def __init__(self, traced):
        self.traced, self.counts = traced, []

    def on_epoch_completed(self, logs):
        self.counts.append(self.traced.to_train)


class Settings(Callback):
    """Gives each batch its settings, and keeps its loss."""

    def __init__(self, settings):
        self.settings, self.losses = iter(settings), []

    def on_batch_training_start(self, batch, logs):
        logs["training_settings"] = next(self.settings)

    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))


def traces_allowed(signature):
    """One for a shape, once more for the short last batch; TensorFlow needs one for all that a signature allows."""
    return 1 if signature is not None and keras.config.backend() == "tensorflow" else 2


@pytest.mark.parametrize("signature", [None, SIGNATURE], ids=["without signature", "with signature"])
def test_training_traces_in_the_first_epoch_only(backend, signature):
    traced = Traced()
    trainer = backend.trainer(batch_data_signature=signature)
    trainer.set_training_model(backend.training_model(spy=traced))
    count = CountPerEpoch(traced)
    TrainingManager(trainer, make_batches(), num_epochs=3, callbacks=[count]).start_training()
    assert 1 <= count.counts[0] <= traces_allowed(signature)
    assert count.counts == [count.counts[0]] * 3
    TrainingManager(trainer, make_batches(), num_epochs=2).start_training()
    assert traced.to_train == count.counts[0]
    assert traced.to_evaluate == 0


@pytest.mark.parametrize("signature", [None, SIGNATURE], ids=["without signature", "with signature"])
def test_evaluation_traces_in_its_first_round_only(backend, signature):
    traced = Traced()
    trainer = backend.trainer(batch_data_signature=signature)
    trainer.set_training_model(backend.training_model(spy=traced))
    losses, counts = [], []
    for _ in range(3):
        losses.append(MetricEvaluator(trainer=trainer).evaluate_dataset(make_batches())["loss"])
        counts.append(traced.to_evaluate)
    assert 1 <= counts[0] <= traces_allowed(signature)
    assert counts == [counts[0]] * 3
    assert losses == [losses[0]] * 3
    TrainingManager(trainer, make_batches()).start_training()
    assert MetricEvaluator(trainer=trainer).evaluate_dataset(make_batches())["loss"] < losses[0]  # the new weights'
    assert traced.to_evaluate == counts[0]
    assert traced.to_train <= traces_allowed(signature)


def train_with_settings(backend, settings):
    traced, callback = Traced(), Settings(settings)
    backend.optimizer.learning_rate = 0.0
    trainer = backend.trainer()
    metrics = TrainingMetricsLogger(metric_evaluator=MetricEvaluator(trainer=trainer))
    batch = make_batches((8,))[0]
    manager = TrainingManager(trainer, [batch] * len(settings), callbacks=[metrics, callback])
    trainer.set_training_model(backend.training_model(spy=traced))
    manager.start_training()
    return traced.to_train, callback.losses


def test_a_float_in_the_settings_is_computed_with(backend):
    scales = [1.0, 0.5, 2.0, 3.25, 0.125]
    traces, losses = train_with_settings(backend, [{"scale": scale} for scale in scales])
    assert traces == 1
    # The weights stand still. Each scale is exact in binary but for 3.25, whose product is rounded once.
    np.testing.assert_allclose(losses, [losses[0] * scale for scale in scales], rtol=2 * np.finfo("float32").eps)


def test_a_string_in_the_settings_is_compiled_once_for_each_value(backend):
    modes = ["a", "b", "a", "b", "c", "a"]
    settings = [{"scale": float(step), "mode": mode} for step, mode in enumerate(modes)]
    traces, losses = train_with_settings(backend, settings)
    assert traces == 3
    np.testing.assert_allclose(losses, losses[1] * np.arange(6), rtol=2 * np.finfo("float32").eps)


def test_eager_mode_calls_the_training_models_code_at_each_batch(backend):
    traced = Traced()
    trainer = backend.trainer(eager_mode=True)
    trainer.set_training_model(backend.training_model(spy=traced))
    TrainingManager(trainer, make_batches(), num_epochs=3).start_training()
    MetricEvaluator(trainer=trainer).evaluate_dataset(make_batches())
    assert (traced.to_train, traced.to_evaluate) == (12, 4)


@pytest.mark.parametrize("compile_kwargs", [{}, {"jit_compile": True}])
def test_compile_kwargs_are_refused_where_nothing_is_compiled(backend, compile_kwargs):
    with pytest.raises(ConfigurationError, match="compile_kwargs is used with eager_mode=False only"):
        backend.trainer(eager_mode=True, compile_kwargs=compile_kwargs)


def test_a_misspelled_compile_option_is_an_error(backend):
    with pytest.raises((TypeError, ConfigurationError), match="no_such_option"):
        train(backend, compile_kwargs={"no_such_option": True})


def test_compile_options_reach_the_compiler(backend):
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        def call_python(*_):
            tf.numpy_function(lambda: np.float32(1), [], tf.float32)

        train(backend, spy=call_python)  # works, and XLA can't compile it
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"XLA|PyFunc"):
            train(type(backend)(), spy=call_python, compile_kwargs={"jit_compile": True})
    else:
        with pytest.raises(Exception, match="no_such_xla_option"):
            train(backend, compile_kwargs={"compiler_options": {"no_such_xla_option": "1"}})


def train(backend, spy=None, **arguments):
    trainer = backend.trainer(**arguments)
    trainer.set_training_model(backend.training_model(spy=spy))
    TrainingManager(trainer, make_batches()).start_training()


def test_a_chunk_size_is_traced_once_and_that_of_a_last_chunk_once_more(backend):
    traced = Traced()
    trainer = backend.trainer(batch_chunk_size=2)
    trainer.set_training_model(backend.training_model(spy=traced))
    count = CountPerEpoch(traced)
    TrainingManager(trainer, make_batches((5, 4, 3, 5)), num_epochs=2, callbacks=[count]).start_training()
    assert count.counts == [2, 2]


@pytest.mark.parametrize("given", [0, (0,), (), None], ids=str)
def test_what_is_donated_by_hand_is_that_of_the_step_and_no_weights_that_chunks_need(backend, given):
    options = {"donate_argnums": given} if keras.backend.backend() == "jax" else {"jit_compile": False}
    trained = []
    for kwargs in ({}, {"compile_kwargs": options}):
        trainer, model, weights = backend.counting_regression(batch_chunk_size=2, **kwargs)
        trainer.set_training_model(model)
        batches = [(x, y, np.ones(len(y))) for x, y in make_batches((5, 4))]
        TrainingManager(trainer, batches, num_epochs=2).start_training()
        MetricEvaluator(trainer=trainer).evaluate_dataset(batches)  # which needs them afterwards too
        trained.append(weights())
    np.testing.assert_allclose(*trained, rtol=1e-6, atol=1e-7)
