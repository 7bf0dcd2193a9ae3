"""Train a classifier of handwritten digits with Keras.

KERAS_BACKEND=tensorflow python examples/port_keras/before.py
"""

import argparse
import os

import keras
from digits import load_datasets, make_model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", default="runs/digits-before", help="where logs and checkpoints go")
    options = parser.parse_args()

    os.makedirs(options.output, exist_ok=True)
    keras.utils.set_random_seed(0)
    training_set, validation_set, test_set = load_datasets()
    model = make_model()
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=1e-3, patience=3),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.3, patience=1),
        keras.callbacks.CSVLogger(f"{options.output}/log.csv", append=True),
        keras.callbacks.ModelCheckpoint(f"{options.output}/best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.BackupAndRestore(f"{options.output}/backup"),
    ]
    model.fit(
        training_set,
        validation_data=validation_set,
        epochs=options.epochs,
        callbacks=callbacks,
    )

    model = keras.models.load_model(f"{options.output}/best.keras")
    loss, accuracy = model.evaluate(test_set, verbose=0)
    print(f"Test set: loss {loss:.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
