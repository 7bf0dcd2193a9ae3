"""What from_lightning can't take is refused when it is given, with the cure."""

import subprocess
import sys
import textwrap

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_projects import Adversarial, Classifier, Data, loader, val_loader

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError, TrainingModelError

from_lightning = mlp.trainers.DefaultTrainer.from_lightning


class NoEvaluation(Classifier):
    validation_step = pl.LightningModule.validation_step


class KerasLike:
    def fit(self, x):
        pass

    def compile(self, optimizer):
        pass


class Unnamed(Classifier):
    def training_step(self, dataloader_iter):
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_lightning(torch.nn.Linear(2, 1)), "takes a pytorch_lightning.LightningModule, not Linear"),
        (lambda: from_lightning(KerasLike()), "takes a pytorch_lightning.LightningModule, not <"),
        (lambda: from_lightning(Classifier), "takes a pytorch_lightning.LightningModule, not <class"),
        (lambda: from_lightning(Unnamed()), "training_step takes dataloader_iter"),
        (lambda: from_lightning(Classifier(), max_epochs=3), r"doesn't take max_epochs: .*num_epochs"),
        (lambda: from_lightning(Classifier(), callbacks=[]), r"doesn't take callbacks: .*TrainingManager"),
        (
            lambda: from_lightning(Classifier(), accumulate_grad_batches=4, batch_chunk_size=2),
            "accumulate_grad_batches must be 1 with batch_chunk_size or gradient_accumulation_steps",
        ),
        (lambda: from_lightning(Classifier(), limit_train_batches=4), "num_batches_per_epoch"),
        (lambda: from_lightning(Classifier(), acelerator="cpu"), "Did you mean accelerator"),
        (lambda: from_lightning(Classifier(), num_epoch=3), "Did you mean num_epochs"),
        (lambda: from_lightning(Classifier(), optimizers=[]), "configure_optimizers makes them"),
        (lambda: from_lightning(Classifier(), train_dataloaders=loader()), r"TrainingManager\(trainer, train_data"),
        (lambda: from_lightning(Classifier(), datamodule=Data()), r"pass TrainingManager\(trainer, datamodule\)"),
        (lambda: from_lightning(Classifier(), gradient_clip_norm=1.0), "gradient_clip_val"),
        (
            lambda: from_lightning(Classifier(), lightning_trainer=pl.Trainer(logger=False), max_epochs=3),
            r"doesn't take max_epochs: .*num_epochs",
        ),
        (
            lambda: from_lightning(
                Classifier(),
                lightning_trainer=pl.Trainer(accumulate_grad_batches=2, logger=False),
                gradient_accumulation_steps=2,
            ),
            "accumulate_grad_batches must be 1",
        ),
        (lambda: from_lightning(Classifier(), lightning_trainer="cpu"), "must be a pytorch_lightning.Trainer"),
        (
            lambda: from_lightning(Classifier(), lightning_trainer=pl.Trainer(logger=False), devices=1),
            "can't be given together with lightning_trainer",
        ),
        (lambda: from_lightning(Classifier()).set_training_model(torch.nn.Linear(2, 1)), "takes no other training"),
        (lambda: from_lightning(Classifier(), batch_chunk_size=0), "batch_chunk_size must be a whole number"),
        (lambda: from_lightning(Adversarial(), batch_chunk_size=2), "optimizes manually"),
        (
            lambda: mlp.trainers.TrainingManager(
                from_lightning(Classifier()), Data(), callbacks=[mlp.callbacks.LRSchedulerWrapper(lambda step: 1.0)]
            ),
            "LRSchedulerWrapper needs the optimizers",
        ),
    ],
)
def test_what_cant_work_is_refused_when_it_is_made(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


class Forgetful(Classifier):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))


def evaluate(module):
    trainer = from_lightning(module, accelerator="cpu", val_dataloaders=val_loader())
    return mlp.evaluation.MetricEvaluator(trainer=trainer).evaluate_dataset(val_loader())


def test_evaluating_needs_a_validation_step_that_returns_something():
    with pytest.raises(ConfigurationError, match="NoEvaluation has no validation_step to evaluate a batch by"):
        evaluate(NoEvaluation())
    with pytest.raises(TrainingModelError, match="returned None"):
        evaluate(Forgetful())


def test_a_learning_rate_that_has_a_schedule_isnt_set():
    class Set(mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch, logs):
            self.manager.trainer.set_learning_rate(0.5)

    class Scheduled(Classifier):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def train(module):
        trainer = from_lightning(module, accelerator="cpu", val_dataloaders=val_loader())
        mlp.trainers.TrainingManager(trainer, loader(), callbacks=[Set()]).start_training()
        return trainer

    with pytest.raises(ConfigurationError, match="has a schedule of its own, from configure_optimizers"):
        train(Scheduled())
    assert train(Classifier()).adapter.learning_rates() == {"optimizer": 0.5}


def test_a_module_of_the_other_lightning_is_refused():
    code = """
        import pytorch_lightning
        import lightning.pytorch as other
        import mlpug.errors
        import mlpug.pytorch as mlp
        try:
            mlp.trainers.DefaultTrainer.from_lightning(other.LightningModule())
        except mlpug.errors.ConfigurationError as error:
            print(type(error).__name__, error)
    """
    refused = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=280)
    assert refused.stdout.startswith("ConfigurationError LightningModule is a class of lightning.pytorch"), refused
