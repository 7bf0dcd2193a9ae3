"""What Keras's own callbacks remember in a resumed run, and what the script says about them there."""

import keras
import numpy as np
import pytest
from compiled_models import PortedRun, arrays, sequential
from contract.backends.base import make_batches
from contract.keeper import Keeper

from mlpug import checkpoints
from mlpug.plain import to_plain
from mlpug.trainers import TrainingManager

natives = keras.callbacks
NUM_EPOCHS = 4
BATCHES = [(x.astype("float32"), y.astype("float32")) for x, y in make_batches((4,) * 4)]


class TrainModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        return keras.ops.mean(keras.ops.square(self.model(batch_data[0])[:, 0] - batch_data[1]))


def train_model(backend, callbacks, resume_from=None):
    """The weights after a run of a training model."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.Adam(0.05), model)
    manager = TrainingManager(trainer, BATCHES, num_epochs=NUM_EPOCHS, callbacks=callbacks)
    trainer.set_training_model(TrainModel(model))
    manager.start_training(resume_from=resume_from)
    return model.get_weights()


def train_compiled(backend, callbacks, resume_from=None):
    """The weights after a run of a compiled model."""
    run = PortedRun(backend.mlp, sequential, arrays, callbacks=callbacks, num_epochs=NUM_EPOCHS, batch_size=6)
    return run.start(resume_from).model.get_weights()


@pytest.fixture(params=[train_model, train_compiled])
def train(request, backend):
    return lambda *arguments, **options: request.param(backend, *arguments, **options)


class Own(natives.Callback):
    """Counts, notes and derives; its arguments are the script's."""

    def __init__(self, limit=100, folder="old"):
        super().__init__()
        self.limit, self.folder = limit, folder
        self.epochs, self.losses, self.last = 0, [], None
        self.histogram = np.zeros(3)
        self.first_loss = None

    def on_train_begin(self, logs=None):
        self.path = f"{self.folder}/curve"

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.losses.append(float(logs["loss"]))
        self.histogram[epoch % 3] += 1
        self.last = keras.ops.convert_to_tensor(float(epoch))
        if self.first_loss is None:
            self.first_loss = self.losses[0]

    def remembered(self):
        return self.epochs, self.losses, self.histogram.tolist(), float(self.last), self.first_loss


def saved_in(keeper, number):
    """The path of the state after so many batches; both runs have four in an epoch."""
    return next(path for path, batches in keeper.saved if batches == number)


def test_what_a_callback_has_changed_goes_on_and_what_the_script_configures_is_the_scripts(train, tmp_path):
    whole, keeper = Own(), Keeper(tmp_path)
    train([keeper, whole])
    for batches in (2, 6, 10, 14):
        resumed = Own(limit=7, folder="new")
        train([resumed], resume_from=saved_in(keeper, batches))
        assert resumed.remembered() == whole.remembered()
        assert (resumed.limit, resumed.folder, resumed.path) == (7, "new", "new/curve")


def test_what_was_given_back_is_kept_in_the_next_checkpoint_too(train, tmp_path):
    whole, keeper = Own(), Keeper(tmp_path)
    train([keeper, whole])
    (tmp_path / "again").mkdir()
    again, once_more = Keeper(tmp_path / "again"), Own()
    train([again, Own()], resume_from=saved_in(keeper, 6))
    train([once_more], resume_from=again.saved[0][0])  # in the same epoch: nothing has changed since
    assert once_more.remembered() == whole.remembered()


def test_keras_callbacks_follow_a_script_that_configures_them_anew(train, tmp_path):
    def run(patience, min_delta, folder, resume_from=None, first=()):
        early = natives.EarlyStopping("loss", min_delta=min_delta, patience=patience)
        saves = natives.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True)
        train([*first, early, saves], resume_from=resume_from)
        return early, sorted(path.name for path in folder.iterdir())

    for name in ("old", "new", "states"):
        (tmp_path / name).mkdir()
    keeper = Keeper(tmp_path / "states")
    run(3, 100.0, tmp_path / "old", first=[keeper])  # no loss is better by that much: it waits from the first epoch on
    early, files = run(2, 50.0, tmp_path / "new", saved_in(keeper, 6))
    assert (early.patience, abs(early.min_delta)) == (2, 50.0)
    assert early.stopped_epoch == 2  # epochs 1 and 2 were waited for: that of epoch 0 was the best so far
    assert files == ["2.weights.h5", "3.weights.h5"]


def test_a_file_of_the_first_version_gives_back_all_but_the_arguments_of_keras_classes(train, tmp_path):
    def run(patience, limit, resume_from=None, first=()):
        early, own = natives.EarlyStopping("loss", min_delta=0.001, patience=patience), Own(limit)
        train([*first, early, own], resume_from=resume_from)
        return early, own

    class All(Keeper):
        """As the first version saved it: every attribute that is plain data."""

        def on_rest(self, logs, is_last):
            super().on_rest(logs, is_last)
            path, _ = self.saved[-1]
            state = checkpoints.load(path)
            del state["keras"]["changes"]
            state["keras"]["callbacks"] = {type(one).__name__: plain_of(one) for one in (self.early, self.own)}
            checkpoints.save(path, state)

    keeper = All(tmp_path)
    keeper.early, keeper.own = natives.EarlyStopping("loss", min_delta=0.001, patience=50), Own(3)
    train([keeper, keeper.early, keeper.own])
    early, own = run(60, 4, saved_in(keeper, 10))
    assert own.remembered()[:3] == keeper.own.remembered()[:3]
    assert own.limit == 3  # nobody can know what it was that changed it
    assert early.patience == 60
    assert (early.wait, early.best, early.best_epoch, early.min_delta) == (
        keeper.early.wait,
        keeper.early.best,
        keeper.early.best_epoch,
        keeper.early.min_delta,
    )


def plain_of(callback):
    found = {}
    for name, value in vars(callback).items():
        if name not in ("_model", "params", "last") and not callable(value):
            found[name] = to_plain(value)
    return found
