"""The same with mlpug: however it is ended, start it again, and it goes on.

python examples/port_keras/after.py
"""

import mlpug.tensorflow as mlp  # isort: skip - or mlpug.jax; before Keras, which it sets to run on that

import argparse
import os

import keras
from digits import load_datasets, make_model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", default="runs/digits-after", help="where logs and checkpoints go")
    options = parser.parse_args()

    os.makedirs(options.output, exist_ok=True)
    keras.utils.set_random_seed(0)
    training_set, validation_set, test_set = load_datasets()
    model = make_model()
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e-3, patience=3),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.3, patience=1),
        keras.callbacks.CSVLogger(f"{options.output}/log.csv", append=True),
        mlp.callbacks.LogProgress(log_period=20),
        mlp.callbacks.CheckpointManager(options.output, "digits", batch_level=False),
    ]
    trainer = mlp.trainers.DefaultTrainer.from_keras(model, validation_data=validation_set)
    manager = mlp.trainers.TrainingManager(trainer, training_set, num_epochs=options.epochs, callbacks=callbacks)
    manager.start_training(resume_from="auto")

    mlp.load_model_checkpoint(f"{options.output}/digits-best-model-checkpoint.safetensors").restore(model=model)
    loss, accuracy = model.evaluate(test_set, verbose=0)
    print(f"Test set: loss {loss:.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
