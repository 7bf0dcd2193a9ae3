"""Every error that a user can catch."""

import inspect

import pytest

from mlpug import errors


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.DatasetError, ValueError),
        (errors.TrainingModelError, TypeError),
        (errors.MissingDependencyError, ImportError),
        (errors.CheckpointNotFoundError, FileNotFoundError),
        (errors.CheckpointDamagedError, ValueError),
        (errors.CheckpointWriteError, OSError),
        (errors.CheckpointMismatchError, ValueError),
        (errors.StateError, TypeError),
    ],
)
def test_each_error_is_an_mlpug_error_and_the_builtin_that_people_expect(error, builtin):
    raised = error("what, and the cure")

    assert isinstance(raised, errors.MlpugError)
    assert isinstance(raised, builtin)
    assert str(raised) == "what, and the cure"


def test_one_base_catches_every_error():
    every = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]
    others = [item for item in every if not issubclass(item, errors.MlpugError)]

    assert others == [errors.MlpugWarning]


def test_the_kinds_of_errors_are_not_kinds_of_each_other():
    kinds = errors.MlpugError.__subclasses__()

    assert {kind.__name__ for kind in kinds} >= {"ConfigurationError", "DatasetError", "TrainingModelError"}
    assert not any(issubclass(one, other) for one in kinds for other in kinds if one is not other)


def test_warnings_are_user_warnings_and_no_errors_of_ours():
    assert issubclass(errors.MlpugWarning, UserWarning)
    assert not issubclass(errors.MlpugWarning, errors.MlpugError)
