"""The boundary between mlpug and the trainer that runs the loop, on one page.

A backend is one class with the methods of `Adapter`. It calls the methods of `Events` while it trains, and
hands over what each batch gave as a `StepOutput`. Nothing else crosses. `mlpug.testing.FakeAdapter` is the
smallest complete example, and ``tests/contract`` is what every adapter has to pass.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from mlpug.logs import Logs


@dataclass(frozen=True, slots=True)
class Process:
    """Which of the processes of this training run we are."""

    rank: int  # 0 .. world_size - 1; rank 0 is the one that prints
    world_size: int  # number of processes


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What the training model gave for one batch. Arrays are still on the device, without gradients."""

    loss: Any  # scalar: mean over the num_samples of the whole batch, undivided
    num_samples: Any  # number or scalar: what the mean is over
    auxiliary_results: Any = None  # whatever else the training model returned
    gradient_norm: Any = None  # scalar: of the batch's gradient before it was clipped; None where nobody clips


@dataclass(frozen=True, slots=True)
class DataOptions:
    """What the user asked of the training data, beside the data itself."""

    num_batches_per_epoch: int | None = None  # in batches as callbacks count them; None: the user gave no number
    seed: int | None = None  # makes the order of the data a function of (seed, epoch); None: the host's own order
    gradient_accumulation_steps: int = 1  # batches of the dataset that make one batch


@dataclass(frozen=True, slots=True)
class Clipping:
    """What is done to the gradient of a whole batch, for each optimizer on its own, before it updates the weights."""

    norm: float | None = None  # its L2 norm over all weights is scaled down to this where it is larger
    value: float | None = None  # each of its numbers is moved into [-value, value]


@dataclass(frozen=True, slots=True)
class Holder:
    """Something of the script's that a run changes, and what a checkpoint has of it beside weights and variables."""

    name: str  # as messages call it
    value: Any  # a model, a part of one, a callback, what is trained on; looked into where its class is a script's own
    cure: str  # what keeps an attribute of it, in a message after "by"
    is_kept: bool = False  # all that it holds: a hook of its class sees to that
    kept: Container[str] = frozenset()  # attributes that are, or that are the host's
    keeps_variables: bool = False  # of the backend, wherever it has them


@runtime_checkable
class Events(Protocol):
    """What an adapter tells the core, on the training thread, in this order."""

    def training_started(self, num_batches_per_epoch: int | None) -> None:
        """The loop starts; the adapter knows best how long an epoch is (None: not known beforehand)."""

    def epoch_started(self) -> None:
        """An epoch starts, before its first batch."""

    def batch_started(self, batch: Any) -> None:
        """The batch is on its device; the step has not begun."""

    def batch_ended(self, batch: Any, output: StepOutput, did_update: bool) -> None:
        """The step is done. `did_update` is False where the weights did not move."""

    def batch_left_out(self) -> None:
        """In the place of a batch the data gave None, and nothing was done."""

    def epoch_ended(self, completed: bool) -> None:
        """No more batches. `completed` is False where a stop cut the epoch short: native callbacks don't hear of it."""

    def training_ended(self) -> None:
        """The loop ends, by itself or stopped; told before any native callback hears of it, and not after an error."""


def _nobody_asks(level: str, names: Sequence[str]) -> None:
    """No callback waits for a metric."""


def _nobody_reads(level: str, metrics: Mapping[str, Any]) -> None:
    """There are no logs."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of `Adapter.fit` has to do."""

    dataset: Iterable[Any]  # iterated once for each epoch, to its end unless training stops
    num_epochs: int
    num_batches_per_epoch: int | None  # it gives no more than these; None: nobody knows
    listeners: tuple[Any, ...]  # `Events` and native callbacks: each event reaches them in this order
    evaluate_settings: Callable[[], Any]  # called before each step; the training model's `evaluate_settings`
    logs: Logs = field(default_factory=Logs)  # of the run: what native callbacks and loggers are shown
    on_non_finite: Callable[[StepOutput], None] | None = None
    # None: nobody looks. Else the step looks at the loss and the gradients before the weights change; where one isn't
    # finite nothing changes, this is called, and `did_update` is False.
    chunks_of: Callable[[Any], list[Any]] | None = None
    # None: each batch is computed as a whole. Else it cuts what the dataset gave, on its device, into parts to compute
    # one after the other. The gradient of the batch is sum(num_samples_i * gradient_i) / sum(num_samples_i).
    clipping: Clipping | None = None
    on_metrics_logged: Callable[[str, Mapping[str, Any]], None] = _nobody_reads
    # Called with what the host itself has computed, still on the device, for a level of the logs, such as
    # "validation.dataset", in the place of what was there: before `epoch_ended` for an epoch, and before `batch_ended`
    # for "training.batch", to whose metrics it is added.
    on_names_known: Callable[[str, Sequence[str]], None] = _nobody_asks
    # Called before the first batch where the host knows already which metrics it will log by itself: for a level, such
    # as "validation.dataset", all of their names. It raises where a callback waits for another one; a look at another
    # one in the logs is an error from then on.
    first_epoch: int = 0  # the epochs before this one are done
    first_batch: int = 0  # batches of the first epoch that are done; `dataset` leaves them out in that epoch
    # Where first_batch isn't 0, the first epoch goes on: its start isn't told again, to native callbacks neither.


class Adapter(Protocol):
    """What the core asks of a backend."""

    @property
    def backend(self) -> str:
        """What checkpoints say about where they come from, such as "pytorch"."""

    @property
    def process(self) -> Process:
        """This process's place in the run."""

    def set_training_model(self, training_model: Any) -> None:
        """Take the training model, or raise `ConfigurationError` when this backend can't train it."""

    def as_dataset(self, given: Any, options: DataOptions) -> Iterable[Any]:
        """The batches of what the user gave to train on: that itself, unless it means something to the host.

        Data that the host draws by itself is a `mlpug.datasets.DrawnByHost`.
        """

    def fit(self, run: Run) -> None:
        """Train; return when done or stopped. Every exception comes through, unchanged."""

    def stop(self) -> None:
        """End training after the batch, or the epoch's end, that is under way."""

    def evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        """Call the training model on one batch in inference mode: no gradients, no dropout."""

    def to_host(self, tree: Any) -> Any:
        """The same nesting with numpy arrays in place of the backend's, and numbers in place of its scalars."""

    def gather(self, tree: Any) -> list[Any]:
        """What each process gives, in the order of their ranks. Every process has to call it at the same point."""

    def model_state(self) -> dict[str, dict[str, Any]]:
        """The weights: for each model component, by name, arrays by their path in it. Views, where that's possible."""

    def state(self) -> dict[str, Any]:
        """All that the host and the model need to go on after the batch that ended last, as plain data and arrays.

        The components' own parts are under "model", as `model_state` gives them and more. Arrays may be views of memory
        that the next batch changes.
        """

    def load_state(self, state: dict[str, Any], optimizer_settings: str) -> None:
        """Take back what `state` gave, before `fit`, or raise `CheckpointMismatchError` and change nothing.

        Learning rates and the other settings of optimizers stay the script's where `optimizer_settings` is "script"; by
        "checkpoint" they are what they were. A warning names what the script sets otherwise than the one that wrote it.
        """

    def holders(self) -> Iterable[Holder]:
        """Models, their parts, native callbacks, and data that the host draws: when training has started.

        What is reached by two of them is of the first.
        """

    def learning_rates(self) -> Mapping[str, float]:
        """The learning rate of each optimizer, by the optimizer's name."""

    def set_learning_rate(self, optimizer_name: str, value: float) -> None:
        """Set it for the next step, or raise `ConfigurationError` where something else does."""

    def is_native_callback(self, candidate: object) -> bool:
        """Whether the host trainer would take this object as one of its own callbacks.

        Raises `ConfigurationError` where it is one that can't work here, with words that name the way out.
        """

    def native_metrics(self, callbacks: Sequence[Any]) -> Iterable[str] | None:
        """What these native callbacks can monitor beside mlpug's metrics; None: nobody can know beforehand."""
