"""What callbacks of Keras's own add to their logs is shown to others where ``fit`` shows it, and nowhere else."""

import keras
from compiled_models import BATCH_SIZE, NativeRun, PortedRun, arrays, sequential


class Adds(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        logs["of_batch"] = 1.0

    def on_epoch_end(self, epoch, logs=None):
        logs["of_epoch"] = 2.0


class Sees(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.at_batches, self.at_epochs, self.at_end = [], [], None

    def on_train_batch_end(self, batch, logs=None):
        self.at_batches.append(sorted(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.at_epochs.append(sorted(logs))

    def on_train_end(self, logs=None):
        self.at_end = sorted(logs)


def callbacks(sees):
    return [keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate), Adds(), sees]


def shown(sees):
    return sees.at_batches, sees.at_epochs, sees.at_end


def test_at_the_end_of_training_it_isnt_there(backend):
    native, ported = Sees(), Sees()
    options = {"batch_size": BATCH_SIZE, "validation_data": arrays(9, seed=1)}
    NativeRun(sequential, arrays, callbacks=callbacks(native), **options)
    PortedRun(backend.mlp, sequential, arrays, callbacks=callbacks(ported), **options).start()
    assert native.at_end == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert shown(ported) == shown(native)
