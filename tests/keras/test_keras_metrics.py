"""Keras's own metrics stream through an evaluation."""

import keras
import numpy as np
import pytest

from mlpug.evaluation import Metric, MetricEvaluator


class Classify(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)
        self.dense.build((None, 4))

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        images, labels = batch_data
        logits = self.dense(images)
        loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
        return loss, keras.ops.shape(labels)[0], logits


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("batch_chunk_size", [None, 3])
def test_keras_metrics_equal_a_count_by_hand_and_stay_as_they_were(backend, eager_mode, batch_chunk_size):
    random = np.random.default_rng(0)
    batches = [
        (random.normal(size=(n, 4)).astype("float32"), random.integers(0, 3, size=n).astype("int32")) for n in (8, 8, 5)
    ]
    model = Classify()
    trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.1), model, eager_mode=eager_mode)
    trainer.set_training_model(model)
    accuracy, mean = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.Mean()
    accuracy.update_state(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))  # the user's own count: one of two
    mean.update_state(7.0)
    metrics = {
        "accuracy": Metric(lambda batch, output: (batch[1], output.auxiliary_results), accuracy),
        "named": Metric(lambda batch, output: {"y_true": batch[1], "y_pred": output.auxiliary_results}, accuracy),
        "mean": Metric(lambda batch, output: output.auxiliary_results, mean),
    }
    evaluator = MetricEvaluator(trainer=trainer, metrics=metrics, batch_chunk_size=batch_chunk_size)

    kernel, bias = (weight.astype(float) for weight in model.dense.get_weights())
    logits = np.concatenate([x.astype(float) @ kernel + bias for x, _ in batches])
    labels = np.concatenate([y for _, y in batches])
    hits = int((logits.argmax(axis=1) == labels).sum())
    assert 0 < hits < 21
    for _ in range(2):  # each evaluation starts from nothing
        evaluated = evaluator.evaluate_dataset(batches)
        # Keras counts in single precision, epsilon 1.2e-7; the mean is of 63 numbers around 0
        assert evaluated["accuracy"] == pytest.approx(hits / 21, rel=1e-6)
        assert evaluated["named"] == evaluated["accuracy"]
        assert evaluated["mean"] == pytest.approx(logits.mean(), abs=63 * 1.2e-7)
        assert type(evaluated["accuracy"]) is float
    assert float(accuracy.result()) == 0.5
    assert float(mean.result()) == 7.0
