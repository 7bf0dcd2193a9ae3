"""Train a classifier of handwritten digits with Lightning.

python examples/port_lightning/before.py
"""

import argparse

import lightning as L
from digits import DigitClassifier, DigitsDataModule
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", default="runs/digits-before", help="where logs and checkpoints go")
    options = parser.parse_args()

    L.seed_everything(0)
    datamodule = DigitsDataModule()
    model = DigitClassifier()
    callbacks = [
        EarlyStopping(monitor="val_loss", patience=3),
        LearningRateMonitor(logging_interval="step"),
        ModelCheckpoint(options.output, monitor="val_loss", save_last=True),
    ]
    trainer = L.Trainer(
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=CSVLogger(options.output),
        log_every_n_steps=1,
        max_epochs=options.epochs,
        callbacks=callbacks,
    )
    trainer.fit(model, datamodule=datamodule)

    trainer.test(model, datamodule=datamodule, ckpt_path="best")


if __name__ == "__main__":
    main()
