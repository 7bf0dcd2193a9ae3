"""Hello World: train a small classifier of images with mlpug on PyTorch.

python examples/hello_world_pytorch.py
python examples/hello_world_pytorch.py --dataset fashion-mnist --epochs 5
"""

import torch
from data import hello_world_arguments, load_images

import mlpug.pytorch as mlp

mlp.logging.use_fancy_colors()

options = hello_world_arguments()
train_images, train_labels, test_images, test_labels = load_images(options.dataset)
num_pixels = train_images[0].size

training_data = list(zip(torch.from_numpy(train_images), torch.from_numpy(train_labels), strict=True))
test_data = list(zip(torch.from_numpy(test_images), torch.from_numpy(test_labels), strict=True))

training_dataset = torch.utils.data.DataLoader(training_data, batch_size=32, shuffle=False, num_workers=2)
validation_dataset = torch.utils.data.DataLoader(test_data, batch_size=32, shuffle=False, num_workers=2)

classifier = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(num_pixels, 128),
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

image, real_label = test_data[0]
predicted_label = int(classifier(image.unsqueeze(0)).argmax())
print(f"\nreal label = {int(real_label)}, predicted label = {predicted_label}")
