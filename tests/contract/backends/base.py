"""What a backend brings to the contract suite: a small problem, and the same problem solved by hand."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

NUM_FEATURES = 6


def make_batches(sizes: Iterable[int] = (8, 8, 8, 5), seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numpy batches (x, y) of the given sizes, in double precision: x [n, 6], y [n]."""
    random = np.random.default_rng(seed)
    true_weight = random.normal(size=NUM_FEATURES)
    batches = []
    for size in sizes:
        x = random.normal(size=(size, NUM_FEATURES))
        batches.append((x, x @ true_weight + 0.1 * random.normal(size=size)))
    return batches


def assert_same_weights(backend: Any, expected: dict[str, np.ndarray]) -> None:
    """Bit by bit where the backend does the same operations as its loop by hand."""
    weights = backend.weights()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        if backend.is_bit_equal:
            np.testing.assert_array_equal(weight, expected[name])
        else:
            np.testing.assert_allclose(weight, expected[name], rtol=1e-5, atol=1e-7)


def assert_same_losses(backend: Any, losses: list[float], expected: list[float]) -> None:
    """The same for the losses of batches, which are sums over fewer operations."""
    if backend.is_bit_equal:
        assert losses == expected
    else:
        np.testing.assert_allclose(losses, expected, rtol=1e-6)


class Backend(Protocol):
    """One is made for each test: a fresh model, always with the same first weights."""

    is_bit_equal: bool  # whether training by hand does the same operations in the same order
    calls_python_at_each_batch: bool  # or only when it compiles
    random_generator: tuple[Any, Any]  # makes one of the backend's from a number; draws a number from it

    def trainer(self, **arguments: Any) -> Any:
        """A DefaultTrainer for the model; no training model is set yet."""

    def training_model(self, spy: Callable[..., None] | None = None, returns: Callable[..., Any] | None = None) -> Any:
        """The mean squared error of the model, as (loss, num_samples, predictions).

        `spy(batch_data, evaluate_settings, inference_mode)` is called first. `returns(loss, num_samples, predictions)`
        makes what is returned instead. Where there are evaluate_settings, the loss is multiplied by their "scale".
        """

    def without_parameters(self) -> None:
        """Make a trainer whose optimizer has nothing to train, and set its training model."""

    def weights(self) -> dict[str, np.ndarray]:
        """The model's weights now."""

    def train_by_hand(self, batches: list[Any], num_epochs: int) -> tuple[dict[str, np.ndarray], list[float]]:
        """The weights, and the loss of each batch, of a hand-written loop from the same first weights."""

    rounding: float  # relative: how exactly an update of `counting_regression` is computed

    def counting_regression(self, **arguments: Any) -> tuple[Any, Any, Callable[[], np.ndarray]]:
        """A trainer, a training model, and what reads its weights: linear regression from weights that are 0.

        Batches are (x, y, counts): the loss is sum(counts * squared error) / sum(counts), NaN where nothing counts, and
        num_samples is sum(counts). It returns predictions and the mean of them. Gradient descent with a rate of 0.05.
        The weights are those of the features, and the bias last.
        """

    def two_regressions(self, returns: Callable[[Any, Any], Any], **arguments: Any) -> tuple[Any, Any, Any]:
        """The same twice, of y and of -2y, with the optimizers "first" (a rate of 0.05) and "second" (0.1).

        Batches are (x, y). `returns(first_loss, second_loss)` makes the loss, as `losses_by_name` does.
        """

    def without_dropout(self) -> None:
        """From now on training and inference mode compute the same."""

    def square_root(self, loss: Any) -> Any:
        """Of the training model's loss, with its gradient: that isn't finite where the loss is 0."""

    def native_callback(self, hear: Callable[[str], None]) -> Any:
        """A callback of the host trainer that tells the events it hears, by the names of `Events`' methods."""

    def gradients_are_on(self) -> bool:
        """Whether computations are recorded for gradients at this moment."""

    def transfers(self) -> Any:
        """A context that gives a list, to which every transfer to the host by the backend's own means is added."""

    def transfers_to_read_losses(self, count: int) -> int:
        """By the backend's own means, for so many losses with their num_samples at once."""


def losses_by_name(first: Any, second: Any) -> dict[str, Any]:
    """A loss for each of two optimizers."""
    return {"first": first, "second": second}
