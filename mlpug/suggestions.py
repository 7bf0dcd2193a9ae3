"""Guesses which name was meant by one that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_CLOSE = 0.6  # difflib's own; a part of a path that is less like another is another word


def did_you_mean(name: str, known: Iterable[str], cutoff: float = _CLOSE) -> str:
    """A question to put behind a message, with a space before it; nothing where no known name is like it.

    >>> did_you_mean("acelerator", ["accelerator", "devices"]), did_you_mean("acelerator", ["devices"])
    (' Did you mean accelerator?', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f" Did you mean {close[0]}?" if close else ""


def did_you_mean_path(path: str, known: Iterable[str]) -> str:
    """The same for a metric path, part by part: a long beginning that two paths share makes them no more alike.

    A known path may be the beginning of others. Levels that were left out are put in.

    >>> known = ["training.batch.loss", "validation.dataset.loss", "validation.dataset.f1"]
    >>> did_you_mean_path("validaton.dataset.loss", known), did_you_mean_path("validaton", known)
    (' Did you mean validation.dataset.loss?', ' Did you mean validation?')
    >>> did_you_mean_path("validation.f1", known), did_you_mean_path("training.batch.accuracy", known)
    (' Did you mean validation.dataset.f1?', '')
    """
    asked = path.split(".")
    guesses = [guess for other in known for guess in _guesses(asked, other.split("."))]
    best = max(guesses, key=lambda guess: difflib.SequenceMatcher(None, path, guess).ratio(), default=None)
    return "" if best is None or best == path else f" Did you mean {best}?"


def misspelled(name: str, known: Iterable[str]) -> str | None:
    """The known name that this one differs from by one letter too many or too few, or by two that are swapped.

    Names that differ in one letter mean different things too often, such as ``loss_d`` and ``loss_g``.

    >>> misspelled("los", ["loss", "acc"]), misspelled("losss", ["loss"]), misspelled("lsos", ["loss"])
    ('loss', 'loss', 'loss')
    >>> misspelled("loss_g", ["loss_d"]), misspelled("top5", ["top"]), misspelled("loss", ["loss"])
    (None, None, None)
    """
    return next((other for other in known if name != other and _differ_by_a_slip(name, other)), None)


def _differ_by_a_slip(name: str, other: str) -> bool:
    shorter, longer = sorted((name, other), key=len)
    if len(longer) == len(shorter) + 1:
        return any(
            longer[place].isalpha() and longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer))
        )
    return len(name) == len(other) and any(
        name[:place] + name[place + 1] + name[place] + name[place + 2 :] == other for place in range(len(name) - 1)
    )


def _guesses(asked: Sequence[str], known: Sequence[str]) -> Iterable[str]:
    shared = min(len(asked), len(known))
    if all(_are_alike(*pair) for pair in zip(asked, known, strict=False)):
        yield ".".join([*known[:shared], *asked[shared:]])
    elif len(asked) < len(known) and _left_out(asked, known):
        yield ".".join(known)


def _left_out(asked: Sequence[str], known: Sequence[str]) -> bool:
    """Whether the parts of a path are found in a longer one, in their order."""
    parts = iter(known)
    return all(any(_are_alike(part, other) for other in parts) for part in asked)


def _are_alike(part: str, other: str) -> bool:
    return part == other or difflib.SequenceMatcher(None, part, other).ratio() >= _CLOSE
