"""``fit`` under MirroredStrategy on two devices, alone and with as_native; what both gave, as JSON."""

import json
import sys
import warnings

import numpy as np
import tensorflow as tf

import mlpug.tensorflow as mlp  # isort: skip - it sets Keras to run on TensorFlow
import keras

FOLDER, KIND = sys.argv[1:]
(CPU,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(CPU, [tf.config.LogicalDeviceConfiguration()] * 2)
X = np.random.RandomState(0).rand(23, 3).astype("float32")
Y = X.sum(axis=1, keepdims=True)
BATCH_SIZE = 4  # the last one, of 3, is shared as 2 and 1


class Keep(mlp.callbacks.Callback):
    def __init__(self):
        self.batches = []

    def on_batch_training_completed(self, batch, logs):
        of_batch = logs["current"]["training"]["batch"]
        rate, num_samples = logs.at("training_params.batch.lr"), self.manager.step_output.num_samples
        self.batches.append([of_batch["loss"], float(num_samples), of_batch["did_update_model"], rate])


class WeightsBefore(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_begin(self, batch, logs=None):
        self.weights.append([weight.tolist() for weight in self.model.get_weights()])


def make(optimizer_options, **options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1, **optimizer_options)
    if KIND == "scaled":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, loss="mse", metrics=["mae"], run_eagerly=KIND == "eager", **options)
    return model


def run(*callbacks):
    keras.utils.set_random_seed(1)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = make({"use_ema": True})
    before = WeightsBefore()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH_SIZE)
    callbacks = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), before, *callbacks]
    history = model.fit(data, epochs=2, verbose=0, callbacks=callbacks).history
    return {"history": history, "weights": [weight.tolist() for weight in model.get_weights()]}, before.weights, model


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    alone, weights_before, _ = run()
    keep = Keep()
    manager = mlp.callbacks.CheckpointManager(FOLDER, "run", batch_level=False, metric_to_monitor="training.epoch.loss")
    beside, _, trained = run(mlp.callbacks.as_native(keep, manager))
one = make({"use_ema": True})
mlp.load_model_checkpoint(f"{FOLDER}/run-latest-model-checkpoint.safetensors").restore(model=one)
resumed = make({"use_ema": True})
trainer = mlp.trainers.DefaultTrainer.from_keras(resumed, batch_size=BATCH_SIZE, shuffle=False)
going_on = mlp.trainers.TrainingManager(trainer, (X, Y), num_epochs=3)
going_on.start_training(resume_from=f"{FOLDER}/run-training-checkpoint.safetensors")
result = {
    "alone": alone,
    "beside": beside,
    "batches": keep.batches,
    "weights_before": weights_before,
    "saved_is_trained": all(map(np.array_equal, one.get_weights(), trained.get_weights())),
    "left_behind": "update_state" in vars(trained._loss_tracker),
    "resumed_loss": going_on.logs.at("training.epoch.loss"),
}
print("RESULT", json.dumps(result))
