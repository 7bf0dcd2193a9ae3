"""A small GAN that draws digits: the training code, which is the same on every backend.

python examples/gan/training.py pytorch
python examples/gan/training.py jax --epochs 50 --accumulate 2 --precision bf16-mixed
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # where data.py is
from data import load_digits

NUM_LATENT = 16


def load_batches(batch_size, seed=0):
    """Batches (noise [n, 16], images [n, 64]), the pixels of which are in [-1, 1]."""
    images = 2 * load_digits()[0].reshape(-1, 64) - 1
    noise = np.random.default_rng(seed).normal(size=(len(images), NUM_LATENT)).astype("float32")
    return [(noise[i : i + batch_size], images[i : i + batch_size]) for i in range(0, len(images), batch_size)]


def train(mlp, gan, batches, num_epochs, callbacks=(), **trainer_arguments):
    """Train generator and discriminator, each with an optimizer of its own, by a loss of its own."""
    trainer = mlp.trainers.DefaultTrainer(
        optimizers=gan.optimizers,
        model_components={"generator": gan.generator, "discriminator": gan.discriminator},
        **gan.trainer_arguments,
        **trainer_arguments,
    )
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
    callbacks = [mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator), *callbacks]
    manager = mlp.trainers.TrainingManager(trainer, batches, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(gan.training_model)
    manager.start_training()
    return manager.logs


def show(image):
    """An image of 8 x 8 pixels, as text."""
    shades = " .:-=+*#%@"
    for row in np.clip((np.asarray(image).reshape(8, 8) + 1) / 2, 0, 1):
        print("".join(2 * shades[round(float(pixel) * (len(shades) - 1))] for pixel in row))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=["pytorch", "tensorflow", "jax"])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--accumulate", type=int, default=1, help="how many batches of 64 make one")
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()

    mlp = importlib.import_module(f"mlpug.{options.backend}")
    gan = importlib.import_module("gan_on_pytorch" if options.backend == "pytorch" else "gan_on_keras").make_gan()
    progress = mlp.callbacks.LogProgress(log_period=100, set_names=["training"])
    train(
        mlp,
        gan,
        load_batches(64),
        options.epochs,
        callbacks=[progress],
        gradient_accumulation_steps=options.accumulate,
        precision=options.precision,
    )
    show(gan.draw(np.random.default_rng(1).normal(size=(1, NUM_LATENT)).astype("float32")))
