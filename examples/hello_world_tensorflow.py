"""Hello World: train a small classifier of images with mlpug on TensorFlow.

python examples/hello_world_tensorflow.py
python examples/hello_world_tensorflow.py --dataset fashion-mnist --epochs 5
python examples/hello_world_tensorflow.py --eager
"""

import mlpug.tensorflow as mlp  # isort: skip - before TensorFlow, which it keeps quiet

import tensorflow as tf
from data import fashion_mnist_from_keras, hello_world_arguments, load_images

mlp.logging.use_fancy_colors()

options = hello_world_arguments(can_be_eager=True)
train_images, train_labels, test_images, test_labels = load_images(options.dataset, fashion_mnist_from_keras)

training_dataset = tf.data.Dataset.from_tensor_slices((train_images, train_labels)).batch(32)
validation_dataset = tf.data.Dataset.from_tensor_slices((test_images, test_labels)).batch(32)

classifier = tf.keras.Sequential(
    [
        tf.keras.Input(train_images[0].shape),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(128, activation="relu"),
        tf.keras.layers.Dense(10),
    ]
)


class TrainModel(tf.keras.Model):
    def __init__(self, classifier):
        super(TrainModel, self).__init__()
        self.classifier = classifier
        self.loss_func = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        images, true_labels = batch_data
        logits = self.classifier(images)
        return self.loss_func(true_labels, logits)


train_model = TrainModel(classifier)
optimizer = tf.keras.optimizers.Adam()

batch_data_signature = (
    tf.TensorSpec((None, *train_images[0].shape), tf.float32),
    tf.TensorSpec((None,), tf.int64),
)
trainer = mlp.trainers.DefaultTrainer(
    optimizers=optimizer,
    model_components=classifier,
    eager_mode=options.eager,
    batch_data_signature=None if options.eager else batch_data_signature,
)
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
