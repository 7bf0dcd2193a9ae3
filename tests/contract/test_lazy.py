"""Nothing leaves the device before somebody reads it."""

from contract.backends.base import make_batches

from mlpug.callbacks import Callback, LogProgress, TrainingMetricsLogger
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

NUM_BATCHES = 20


class CountingAdapter:
    """Counts the transfers that the core asks an adapter for."""

    def __init__(self, adapter):
        self._adapter = adapter
        self.asked_for = 0

    def __getattr__(self, name):
        return getattr(self._adapter, name)

    def to_host(self, tree):
        self.asked_for += 1
        return self._adapter.to_host(tree)


class CountBetweenBatches(Callback):
    """Counts from the first batch's end to the last one's: what the host trainer does before and after is its own."""

    def __init__(self, transfers):
        self.transfers, self.at_first, self.at_last = transfers, 0, 0

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["batch_step"] == 0:
            self.at_first = len(self.transfers)
        self.at_last = len(self.transfers)


class ReadLoss(Callback):
    def __init__(self, path):
        self.path = path

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["batch_step"] == 7:
            for _ in range(3):
                logs.at(self.path)


def count_transfers(backend, *more, **logger_arguments):
    """The transfers that the core asked for, and those that the backend made."""
    trainer = backend.trainer()
    trainer.adapter = adapter = CountingAdapter(trainer.adapter)
    trainer.set_training_model(backend.training_model())
    logger = TrainingMetricsLogger(MetricEvaluator(trainer=trainer), **logger_arguments)
    progress = LogProgress(batch_level=False, set_names=[])
    with backend.transfers() as transfers:
        count = CountBetweenBatches(transfers)
        batches = make_batches((4,) * NUM_BATCHES)
        TrainingManager(trainer, batches, callbacks=[logger, progress, *more, count]).start_training()
    return adapter.asked_for, count.at_last - count.at_first


def test_batches_that_nobody_reads_make_no_transfer(backend):
    assert count_transfers(backend) == (0, 0)


def test_a_value_that_is_read_is_transferred_once(backend):
    read = ReadLoss("training.batch.loss")
    assert count_transfers(backend, read, logging_mode="batch") == (1, backend.transfers_to_read_losses(1))


def test_reading_a_window_asks_once_for_all_that_is_new_in_it(backend):
    reads = ReadLoss("training.sliding_window.loss"), ReadLoss("training.sliding_window.loss")
    assert count_transfers(backend, *reads, sliding_window_length=5) == (1, backend.transfers_to_read_losses(5))
