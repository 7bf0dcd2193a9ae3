"""A run in a process of its own: says where it is, and in the end its weights. `test_group_signals` sends it signals.

    python group_signal_run.py FOLDER KIND PLACE

KIND is of the loaders: "0 workers", "2 workers" or "2 persistent"; PLACE is where it says READY: "training",
"validation" or "nowhere".
"""

import logging
import multiprocessing
import pathlib
import random
import sys
import time
import warnings

import torch

import mlpug.pytorch as mlp


class Samples(torch.utils.data.Dataset):
    """Slow ones, with noise from every random state that a loading process has: of persistent ones nobody knows it."""

    def __init__(self, count, is_noisy, say=None):
        self.count, self.is_noisy, self.say = count, is_noisy, say

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if self.say is not None and index == self.count // 2:
            print(self.say, flush=True)
        time.sleep(0.002)
        noise = torch.randn(4) + random.random() if self.is_noisy else torch.zeros(4)
        return torch.sin(torch.arange(4.0) + index) + noise, index % 2


class TrainModel(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, evaluate_settings=None, inference_mode=None):
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])


class Says(mlp.callbacks.Callback):
    """READY at the sixth batch."""

    def on_batch_training_start(self, batch, logs):
        if self.manager.global_iter == 5:
            print("READY", flush=True)


def work(path):
    """Of a process of the user's own, which works for as long as the run may need it."""
    while True:
        path.write_text(str(time.monotonic()))
        time.sleep(0.05)


def main(folder, kind, place):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    workers = {"num_workers": int(kind[0]), "persistent_workers": "persistent" in kind}
    is_noisy = not workers["persistent_workers"]
    loader = torch.utils.data.DataLoader(Samples(40, is_noisy), batch_size=4, shuffle=True, **workers)
    says = "READY" if place == "validation" else None
    validation = torch.utils.data.DataLoader(Samples(24, is_noisy, says), batch_size=4, **workers)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 2))
    trainer = mlp.trainers.DefaultTrainer(
        optimizers=torch.optim.Adam(model.parameters()), model_components=model, accelerator="cpu"
    )
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
    callbacks = [
        *([Says()] if place == "training" else []),
        mlp.callbacks.TestMetricsLogger(validation, "validation", metric_evaluator=evaluator, batch_level=False),
        mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=1000),
        Starts(pathlib.Path(folder, "worked.txt")),
    ]
    manager = mlp.trainers.TrainingManager(trainer, loader, num_epochs=2, callbacks=callbacks)
    trainer.set_training_model(TrainModel(model))
    manager.start_training(resume_from="auto")
    print("WEIGHTS", [float(number).hex() for weights in model.parameters() for number in weights.flatten()])


class Starts(mlp.callbacks.Callback):
    """Starts two processes of the user's own: one that multiprocessing waits for at the end, and one that it ends."""

    def __init__(self, path):
        self.path = path
        self.ours = []

    def on_training_start(self, logs):
        self.ours = [multiprocessing.Process(target=work, args=[self.path], daemon=daemon) for daemon in (True, False)]
        for process in self.ours:
            process.start()

    def on_training_ended(self, logs, **outcome):
        assert all(process.is_alive() for process in self.ours)
        if not outcome["interrupted"]:
            for process in self.ours:
                process.terminate()
                process.join(20)
                assert process.exitcode == -15


if __name__ == "__main__":
    main(*sys.argv[1:])
