"""The classifier on PyTorch: what examples/port_lightning has in its LightningModule."""

from types import SimpleNamespace

import torch
from torch import nn


class TrainModel(nn.Module):
    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier
        self.loss = nn.CrossEntropyLoss()

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        images, labels = batch_data
        logits = self.classifier(images)
        return self.loss(logits, labels), len(labels), logits


def make_model(seed=0, hidden=128, dropout=0.2, lr=1e-2):
    torch.manual_seed(seed)
    classifier = nn.Sequential(
        nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 10)
    )
    return SimpleNamespace(
        classifier=classifier,
        training_model=TrainModel(classifier),
        optimizer=torch.optim.AdamW(classifier.parameters(), lr=lr),
    )
