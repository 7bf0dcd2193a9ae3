"""What can't work is refused, with what was expected, what came, and the cure."""

import re

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.errors import ConfigurationError, DatasetError
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager


class LikeTorch:
    """Has what a module of torch has, and isn't a layer of Keras."""

    def parameters(self):
        return iter(())

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        return 0.0

    __call__ = forward


class LikeAnOptimizer:
    learning_rate = 0.1
    built = True

    def apply(self, gradients, variables):
        """Never called."""


@pytest.mark.parametrize(
    "training_model", [lambda batch_data, evaluate_settings, inference_mode=None: 0.0, LikeTorch()], ids=type
)
def test_a_training_model_that_isnt_of_keras_is_refused(backend, training_model):
    trainer = backend.trainer()
    with pytest.raises(ConfigurationError, match=re.escape("must be a keras.Model or keras.layers.Layer")) as error:
        trainer.set_training_model(training_model)
    assert repr(training_model) in str(error.value)
    with pytest.raises(ConfigurationError, match="There is no training model"):
        trainer.check_ready()


@pytest.mark.parametrize("optimizer", [0.1, LikeAnOptimizer(), keras.optimizers.SGD], ids=str)
def test_an_optimizer_that_isnt_of_keras_3_is_refused(backend, optimizer):
    with pytest.raises(ConfigurationError, match=r"'optimizer' must be a keras.optimizers.Optimizer") as error:
        backend.mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=backend.model)
    assert repr(optimizer) in str(error.value)


def test_an_argument_that_the_compiler_doesnt_take_is_refused(backend):
    with pytest.raises(ConfigurationError, match=r"compile_kwargs has 'jit_compil', which (function|jit) doesn't take"):
        backend.trainer(eager_mode=False, compile_kwargs={"jit_compil": True})


def two_optimizers(backend, trainable_variables):
    optimizers = {"first": keras.optimizers.SGD(), "second": keras.optimizers.SGD()}
    return backend.mlp.trainers.DefaultTrainer(
        optimizers=optimizers, model_components=backend.model, trainable_variables=trainable_variables
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda model: None, "2 optimizers, first, second.*pass trainable_variables="),
        (lambda model: {"first": model}, "an entry for each optimizer, first, second, and has first"),
        (lambda model: [model, model], "an entry for each optimizer, first, second, and has \\["),
        (lambda model: {"first": model, "second": "all"}, r"trainable_variables\['second'\] must be a layer.*'all' is"),
        (lambda model: {"first": model, "second": model.layers[-1]}, "two optimizers, 'first' and 'second': each var"),
    ],
    ids=["none", "one only", "not by name", "not a layer", "overlapping"],
)
def test_two_optimizers_have_to_know_what_they_train(backend, parts, message):
    with pytest.raises(ConfigurationError, match=message):
        two_optimizers(backend, parts(backend.model))


def test_a_variable_that_no_optimizer_trains_is_named(backend):
    first, *_, last = [layer for layer in backend.model.layers if layer.trainable_variables]
    trainer = two_optimizers(backend, {"first": last.kernel, "second": last.bias})
    with pytest.raises(ConfigurationError, match=f"No optimizer trains .*{first.name}/kernel.*freeze them"):
        trainer.set_training_model(backend.training_model())


def test_an_optimizer_with_keras_own_accumulation_is_refused(backend):
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    with pytest.raises(ConfigurationError, match="pass gradient_accumulation_steps to DefaultTrainer"):
        backend.mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=backend.model)


def test_a_model_component_that_would_not_be_trained_is_refused(backend):
    forgotten = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    trainer = backend.mlp.trainers.DefaultTrainer(
        optimizers=backend.optimizer, model_components={"used": backend.model, "forgotten": forgotten}
    )
    with pytest.raises(ConfigurationError, match=r"'forgotten' is not part of the training model.*TrainModel"):
        trainer.set_training_model(backend.training_model())


def test_a_training_model_without_trainable_variables_is_refused(backend):
    """Where that shows only once the layers have their variables: at the first batch."""
    backend.model = keras.Sequential([keras.layers.Dense(1, trainable=False)])
    trainer = backend.trainer()
    with pytest.raises(ConfigurationError, match="has no parameters: the training model has no trainable variables"):
        train(trainer, backend.training_model(), make_batches())


X, Y = keras.KerasTensor((None, 6), "float64"), keras.KerasTensor((None,), "float64")
WRONG = {
    "longer x": lambda x, y: ((np.ones((8, 7)), y), r"float64\[None, 6\].*received.*float64\[8, 7\]"),
    "another axis": lambda x, y: ((x, y[:, None]), r"float64\[None\].*received.*float64\[8, 1\]"),
    "dtype": lambda x, y: ((x.astype("float32"), y), r"float64\[None, 6\].*received.*float32\[8, 6\]"),
    "one more": lambda x, y: ((x, y, y), r"float64\[None\]\).*received.*float64\[8\], float64\[8\]\)"),
    "no array": lambda x, y: ((x, 3.0), r"float64\[None\]\).*received.*a float"),
    "a dict": lambda x, y: ({"x": x, "y": y}, r"\(float64\[None, 6\].*received \{'x': float64\[8, 6\]"),
    "deeper": lambda x, y: ((x, (y,)), r"float64\[None\]\).*received.*\(float64\[8\],\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_batch_that_doesnt_fit_the_signature_is_refused(backend, wrong):
    first, second = make_batches((8, 8))
    bad, message = WRONG[wrong](*second)
    trainer = backend.trainer(batch_data_signature=(X, Y))
    done = []

    class Count(backend.mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch, logs):
            done.append(batch)

    with pytest.raises(DatasetError, match=message):
        train(trainer, backend.training_model(), [first, bad], [Count()])
    assert len(done) == 1  # the batch before was good
    with pytest.raises(DatasetError, match=message):
        MetricEvaluator(trainer=trainer).evaluate_batch(bad)
    assert MetricEvaluator(trainer=trainer).evaluate_batch(second)["loss"] > 0


def test_a_signature_of_a_dict_takes_its_keys_in_any_order_only_by_name(backend):
    x, y = make_batches((8,))[0]
    trainer = backend.trainer(batch_data_signature={"x": X, "nested": {"y": Y}})
    trainer.set_training_model(backend.training_model())
    evaluator = MetricEvaluator(trainer=trainer)
    in_order = evaluator.evaluate_batch({"x": x, "nested": {"y": y}})
    assert evaluator.evaluate_batch({"nested": {"y": y}, "x": x}) == in_order
    with pytest.raises(DatasetError, match="'z'"):
        evaluator.evaluate_batch({"z": x, "nested": {"y": y}})


def train(trainer, training_model, batches, callbacks=()):
    manager = TrainingManager(trainer, batches, callbacks=callbacks)
    trainer.set_training_model(training_model)
    manager.start_training()
