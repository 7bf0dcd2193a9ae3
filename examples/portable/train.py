"""The same training on PyTorch, TensorFlow and JAX: the backend, and the file with the model, are two lines.

python examples/portable/train.py
"""

import mlpug.pytorch as mlp  # isort: skip - or mlpug.tensorflow, mlpug.jax; before Keras, which they set up
from digits_on_pytorch import make_model  # isort: skip - or digits_on_keras

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # where data.py is
from data import load_digits


class Batches:
    """Batches (images [n, 8, 8], labels [n]), in a new order in each epoch."""

    def __init__(self, images, labels, batch_size=32, shuffle=False):
        self.images, self.labels = images, labels
        self.batch_size = batch_size
        self.random = np.random.default_rng(0) if shuffle else None

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self):
        order = np.arange(len(self.labels))
        if self.random is not None:
            self.random.shuffle(order)
        for start in range(0, len(order), self.batch_size):
            samples = order[start : start + self.batch_size]
            yield self.images[samples], self.labels[samples]


class EarlyStopping(mlp.callbacks.Callback):
    """Stops when a metric hasn't become smaller in so many epochs."""

    def __init__(self, metric_path, patience):
        self.metric_path, self.patience = metric_path, patience
        self.best, self.num_epochs_without = float("inf"), 0

    def required_metric_paths(self):
        return [self.metric_path]

    def get_state(self):
        return {"best": self.best, "num_epochs_without": self.num_epochs_without}

    def set_state(self, state):
        self.best, self.num_epochs_without = state["best"], state["num_epochs_without"]

    def on_epoch_completed(self, logs):
        value = logs.at(self.metric_path)
        self.num_epochs_without = 0 if value < self.best else self.num_epochs_without + 1
        self.best = min(self.best, value)
        if self.num_epochs_without == self.patience:
            self.manager.stop_training()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", default="runs/digits-portable", help="where checkpoints go")
    options = parser.parse_args()

    images, labels, test_images, test_labels = load_digits()
    training_set = Batches(images[:1200], labels[:1200], shuffle=True)
    validation_set = Batches(images[1200:], labels[1200:])
    model = make_model()
    trainer = mlp.trainers.DefaultTrainer(
        optimizers=model.optimizer, model_components=model.classifier, gradient_clip_norm=1.0
    )
    accuracy = mlp.evaluation.Metric(
        inputs=lambda batch, output: {"labels": batch[1], "logits": output.auxiliary_results},
        compute=lambda inputs: (inputs["logits"].argmax(axis=1) == inputs["labels"]).mean(),
    )
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer, metrics={"accuracy": accuracy})
    schedule = mlp.scheduler_funcs.cosine_with_warmup(
        num_warmup_steps=len(training_set), num_steps=options.epochs * len(training_set)
    )
    callbacks = [
        mlp.callbacks.LRSchedulerWrapper(schedule),
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator),
        mlp.callbacks.TestMetricsLogger(validation_set, "validation", metric_evaluator=evaluator, batch_level=False),
        EarlyStopping("validation.dataset.loss", patience=3),
        mlp.callbacks.LogProgress(log_period=20),
        mlp.callbacks.CheckpointManager(options.output, "digits", batch_level=False),
    ]
    manager = mlp.trainers.TrainingManager(trainer, training_set, num_epochs=options.epochs, callbacks=callbacks)
    trainer.set_training_model(model.training_model)
    manager.start_training(resume_from="auto")

    best = mlp.load_model_checkpoint(f"{options.output}/digits-best-model-checkpoint.safetensors")
    best.restore(model=model.classifier)
    result = evaluator.evaluate_dataset(Batches(test_images, test_labels))
    print(f"Test set: loss {result['loss']:.4f}, accuracy {result['accuracy']:.4f}")


if __name__ == "__main__":
    main()
