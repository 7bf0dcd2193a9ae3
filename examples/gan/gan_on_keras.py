"""The models of the GAN on Keras, for TensorFlow and JAX."""

from types import SimpleNamespace

import keras
from keras import layers, ops


class TrainModel(keras.Model):
    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        noise, images = batch_data
        drawn = self.generator(noise)
        of_images = ops.cast(self.discriminator(images), "float32")
        of_drawn = ops.cast(self.discriminator(drawn), "float32")
        # Each optimizer changes its own weights only, so that nothing has to be detached.
        losses = {
            "generator": ops.mean(ops.softplus(-of_drawn)),
            "discriminator": ops.mean(ops.softplus(-of_images)) + ops.mean(ops.softplus(of_drawn)),
        }
        return losses, ops.shape(images)[0]


def make_gan(seed=0):
    """Models, optimizers, and what else the trainer has to know."""
    keras.utils.set_random_seed(seed)
    generator = keras.Sequential(
        [keras.Input((16,)), layers.Dense(64), layers.LeakyReLU(0.2), layers.Dense(64, activation="tanh")]
    )
    discriminator = keras.Sequential([keras.Input((64,)), layers.Dense(64), layers.LeakyReLU(0.2), layers.Dense(1)])
    return SimpleNamespace(
        generator=generator,
        discriminator=discriminator,
        training_model=TrainModel(generator, discriminator),
        optimizers={
            "generator": keras.optimizers.Adam(1e-3, beta_1=0.5),
            "discriminator": keras.optimizers.Adam(1e-3, beta_1=0.5),
        },
        trainer_arguments={"trainable_variables": {"generator": generator, "discriminator": discriminator}},
        draw=lambda noise: ops.convert_to_numpy(ops.cast(generator(noise), "float32")),
        weights=lambda: generator.get_weights(),
    )
