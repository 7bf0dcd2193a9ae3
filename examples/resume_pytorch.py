"""A training that is killed goes on, and ends with the weights of one that was never stopped.

python examples/resume_pytorch.py
"""

import multiprocessing
import os
import signal
import tempfile

import torch
from data import load_digits

import mlpug.pytorch as mlp

KILLED_AFTER = 137  # batches, of 188


class TrainModel(torch.nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier
        self.loss_func = torch.nn.CrossEntropyLoss()

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        images, true_labels = batch_data
        return self.loss_func(self.classifier(images), true_labels)


class Kill(mlp.callbacks.Callback):
    """Ends the process as running out of memory or a power cut would: nothing can be done about it, or after it."""

    def on_batch_training_completed(self, batch, logs):
        if self.manager.global_iter == KILLED_AFTER:
            print(f"{KILLED_AFTER} batches are done: killed.", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def train(directory, seed, callbacks=()):
    """Train, or go on with what the directory has; return the weights and the number of batches trained here."""
    torch.manual_seed(seed)
    images, labels, _, _ = map(torch.from_numpy, load_digits())
    dataset = torch.utils.data.TensorDataset(images, labels)
    training_dataset = torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)
    classifier = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 128),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(classifier.parameters())
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=classifier, accelerator="cpu")
    checkpoints = mlp.callbacks.CheckpointManager(
        directory, "digits", metric_to_monitor=None, create_checkpoint_every=10
    )
    manager = mlp.trainers.TrainingManager(trainer, training_dataset, num_epochs=4, callbacks=[checkpoints, *callbacks])
    trainer.set_training_model(TrainModel(classifier))
    manager.start_training(resume_from="auto")
    return classifier.state_dict()


def train_until_killed(directory):
    train(directory, seed=0, callbacks=[Kill()])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as never_stopped, tempfile.TemporaryDirectory() as killed:
        expected = train(never_stopped, seed=0)

        process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=[killed])
        process.start()
        process.join()
        print(f"The process ended with exit status {process.exitcode}.")

        weights = train(killed, seed=1)  # another seed: all that matters is in the checkpoint

    for name, weight in weights.items():
        print(f"{name}: {'the same' if torch.equal(weight, expected[name]) else 'NOT the same'}, bit for bit")
