"""The same with mlpug: however it is ended, start it again, and it goes on.

python examples/port_lightning/after.py
"""

import argparse

import lightning as L
from digits import DigitClassifier, DigitsDataModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

import mlpug.pytorch as mlp


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", default="runs/digits-after", help="where logs and checkpoints go")
    options = parser.parse_args()

    L.seed_everything(0)
    datamodule = DigitsDataModule()
    model = DigitClassifier()
    callbacks = [
        EarlyStopping(monitor="val_loss", patience=3),
        LearningRateMonitor(logging_interval="step"),
        mlp.callbacks.LogProgress(log_period=20),
        mlp.callbacks.CheckpointManager(
            options.output, "digits", batch_level=False, metric_to_monitor="validation.dataset.val_loss"
        ),
    ]
    trainer = mlp.trainers.DefaultTrainer.from_lightning(
        model,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=CSVLogger(options.output),
        log_every_n_steps=1,
    )
    manager = mlp.trainers.TrainingManager(trainer, datamodule, num_epochs=options.epochs, callbacks=callbacks)
    manager.start_training(resume_from="auto")

    mlp.load_model_checkpoint(f"{options.output}/digits-best-model-checkpoint.safetensors").restore(model=model)
    trainer.native.trainer.test(model, datamodule=datamodule)


if __name__ == "__main__":
    main()
