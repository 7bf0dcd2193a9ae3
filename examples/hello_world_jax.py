"""Hello World: train a small classifier of images with mlpug on JAX.

python examples/hello_world_jax.py
python examples/hello_world_jax.py --dataset fashion-mnist --epochs 5
"""

import mlpug.jax as mlp  # isort: skip - before Keras, which it sets to run on JAX

import keras
from data import fashion_mnist_from_keras, hello_world_arguments, load_images

mlp.logging.use_fancy_colors()

options = hello_world_arguments()
train_images, train_labels, test_images, test_labels = load_images(options.dataset, fashion_mnist_from_keras)

training_dataset = [(train_images[i : i + 32], train_labels[i : i + 32]) for i in range(0, len(train_images), 32)]
validation_dataset = [(test_images[i : i + 32], test_labels[i : i + 32]) for i in range(0, len(test_images), 32)]

classifier = keras.Sequential(
    [
        keras.Input(train_images[0].shape),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10),
    ]
)


class TrainModel(keras.Model):
    def __init__(self, classifier):
        super(TrainModel, self).__init__()
        self.classifier = classifier
        self.loss_func = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        images, true_labels = batch_data
        logits = self.classifier(images)
        return self.loss_func(true_labels, logits)


train_model = TrainModel(classifier)
optimizer = keras.optimizers.Adam()

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
