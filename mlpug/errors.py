"""Every error that mlpug raises itself, as one small tree.

    MlpugError
    ├── ConfigurationError     an argument or a combination that can't work; a ValueError too
    ├── DatasetError           the data isn't what training needs; a ValueError too
    ├── TrainingModelError     the training model returned something else than a loss; a TypeError too
    └── MissingDependencyError a package that the chosen backend needs isn't installed; an ImportError too

Exceptions from the user's own model, data and callbacks are never translated: they arrive as they were raised.
"""


class MlpugError(Exception):
    """Base of all of mlpug's own errors.

    >>> from mlpug.errors import ConfigurationError, MlpugError
    >>> issubclass(ConfigurationError, MlpugError)
    True
    """


class ConfigurationError(MlpugError, ValueError):
    """An argument, or a combination of arguments, that can't work.

    >>> from mlpug.callbacks import LogProgress
    >>> LogProgress(log_period=-1)
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: log_period must be a whole number of at least 1, not -1. ...
    """


class DatasetError(MlpugError, ValueError):
    """The data can't be trained on or evaluated: it is empty, or can't be read again.

    >>> from mlpug.errors import DatasetError
    >>> issubclass(DatasetError, ValueError)
    True
    """


class TrainingModelError(MlpugError, TypeError):
    """The training model returned something that holds no loss.

    >>> from mlpug.step_output import as_step_output
    >>> as_step_output(None, batch=None)
    Traceback (most recent call last):
    mlpug.errors.TrainingModelError: The training model returned None. ...
    """


class MissingDependencyError(MlpugError, ImportError):
    """A package that this backend needs isn't installed; the message names the extra that brings it.

    >>> from mlpug.errors import MissingDependencyError
    >>> issubclass(MissingDependencyError, ImportError)
    True
    """


class MlpugWarning(UserWarning):
    """Category of all of mlpug's warnings, so that they can be filtered or turned into errors.

    >>> import warnings
    >>> from mlpug.errors import MlpugWarning
    >>> warnings.filterwarnings("error", category=MlpugWarning)  # doctest: +SKIP
    """
