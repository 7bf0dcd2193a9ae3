"""Hello World: train a small classifier of images with mlpug on PyTorch.

python examples/hello_world_pytorch.py
python examples/hello_world_pytorch.py --dataset fashion-mnist --epochs 5
"""

import torch
from data import fashion_mnist_from_torchvision, hello_world_arguments, load_images

import mlpug.pytorch as mlp

mlp.logging.use_fancy_colors()

options = hello_world_arguments()
images_and_labels = load_images(options.dataset, fashion_mnist_from_torchvision)
train_images, train_labels, test_images, test_labels = map(torch.from_numpy, images_and_labels)

training_data = torch.utils.data.TensorDataset(train_images, train_labels)
validation_data = torch.utils.data.TensorDataset(test_images, test_labels)
training_dataset = torch.utils.data.DataLoader(training_data, batch_size=32, shuffle=False, num_workers=2)
validation_dataset = torch.utils.data.DataLoader(validation_data, batch_size=32, shuffle=False, num_workers=2)

classifier = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(train_images[0].numel(), 128),
    torch.nn.ReLU(),
    torch.nn.Linear(128, 10),
)


class TrainModel(torch.nn.Module):
    def __init__(self, classifier):
        super(TrainModel, self).__init__()
        self.classifier = classifier
        self.loss_func = torch.nn.CrossEntropyLoss()

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        images, true_labels = batch_data
        logits = self.classifier(images)
        return self.loss_func(logits, true_labels)


train_model = TrainModel(classifier)
optimizer = torch.optim.Adam(classifier.parameters(), eps=1e-7)

trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=classifier)
loss_evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
callbacks = [
    mlp.callbacks.TrainingMetricsLogger(metric_evaluator=loss_evaluator),
    mlp.callbacks.TestMetricsLogger(
        validation_dataset, "validation", metric_evaluator=loss_evaluator, batch_level=False
    ),
    mlp.callbacks.LogProgress(log_period=500, set_names=["training", "validation"]),
]
manager = mlp.trainers.TrainingManager(trainer, training_dataset, num_epochs=options.epochs, callbacks=callbacks)
trainer.set_training_model(train_model)
manager.start_training()

logits = list(classifier(test_images[:1])[0])
predicted_label = logits.index(max(logits))
print(f"\nreal label = {int(test_labels[0])}, predicted label = {predicted_label}")
