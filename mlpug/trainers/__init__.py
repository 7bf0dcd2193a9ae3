"""What is trained, and the manager that trains it."""

from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug.trainers.training_manager import TrainingManager

__all__ = ["DefaultTrainer", "TrainingManager"]
