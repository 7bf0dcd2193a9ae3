"""The data of the Hello World examples, and their command line."""

import argparse

import numpy as np


def hello_world_arguments(can_be_eager=False):
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", choices=["digits", "fashion-mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=10)
    if can_be_eager:
        parser.add_argument("--eager", action="store_true", help="run each step without compiling it")
    return parser.parse_args()


def load_images(dataset, fashion_mnist):
    """Return (train images, train labels, test images, test labels): floats from 0 to 1, and whole numbers 0 to 9.

    Args:
        dataset: "digits" or "fashion-mnist".
        fashion_mnist: loads the latter.
    """
    return {"digits": load_digits, "fashion-mnist": fashion_mnist}[dataset]()


def load_digits():
    """Handwritten digits of 8 x 8 pixels that come with scikit-learn: nothing to download."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def fashion_mnist_from_torchvision():
    """Pictures of clothes of 28 x 28 pixels, downloaded by torchvision."""
    from torchvision.datasets import FashionMNIST

    parts = []
    for is_train in (True, False):
        data = FashionMNIST("data", train=is_train, download=True)
        parts += [data.data.numpy().astype(np.float32) / 255, data.targets.numpy()]
    return tuple(parts)


def fashion_mnist_from_keras():
    """The same, downloaded by Keras."""
    import keras

    parts = []
    for images, labels in keras.datasets.fashion_mnist.load_data():
        parts += [images.astype(np.float32) / 255, labels.astype(np.int64)]
    return tuple(parts)
