"""What the code of a class says about the attributes of its objects, without running any of it."""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

from mlpug.datasets.reachable import is_of_library

# What a resumed run calls before it draws from an object again.
_BEFORE_DRAWING = ("__iter__", "set_epoch")
# What begins an epoch.
EPOCH_STARTS = ("on_epoch_start", "on_train_epoch_start")
_MOST_CALLS = 3  # of methods in each other that are followed


def names_of_libraries(kind: type) -> set[str]:
    """Attributes that installed classes among its bases give to its objects, or to themselves.

    >>> class Noise(types.SimpleNamespace): ...
    >>> import logging
    >>> class Log(logging.Logger): ...
    >>> names_of_libraries(Noise) & {"level", "disabled"}, sorted(names_of_libraries(Log) & {"level", "disabled"})
    (set(), ['disabled', 'level'])
    """
    libraries = (base for base in kind.__mro__ if base.__module__ not in _HOLD_THE_SCRIPTS)
    return set().union(*(_names_of(base) for base in libraries if is_of_library(base.__module__)))


@cache
def _names_of(base: type) -> set[str]:
    return set(vars(base)).union(*(_stored_in(function.__code__) for function in _functions_of(base)))


_HOLD_THE_SCRIPTS = ("builtins", "collections")  # a UserList's `data` is the script's


def made_again(kind: type) -> set[str]:
    """Attributes that a resumed run makes what they were: what a dataset does as an epoch or a round begins.

    Of a class whose `__iter__` sets `self.place = 0` before it reads it, and counts `self.rounds += 1`: the place.
    """
    names = set().union(*(_set_first(kind, method) for method in _BEFORE_DRAWING))
    if all(hasattr(kind, name) for name in ("on_epoch_begin", "on_epoch_end", "__getitem__")):  # Keras's PyDataset
        names |= _touched(kind, "on_epoch_begin") | _touched(kind, "on_epoch_end")
    return names


def set_as_epochs_start(kind: type) -> set[str]:
    """Attributes that an object sets whenever an epoch starts, so that it doesn't matter what they were before."""
    return set().union(*(_set_first(kind, method) for method in EPOCH_STARTS))


def _set_first(kind: type, method: str) -> set[str]:
    """What a method sets, whatever happens, before it reads it."""
    read: set[str] = set()
    made: set[str] = set()
    for what, name in _in_order(kind, method, _MOST_CALLS):
        if what == "branches":
            break
        if what == "reads":
            read.add(name)
        elif name not in read:
            made.add(name)
    return made


def _touched(kind: type, method: str) -> set[str]:
    return {name for what, name in _in_order(kind, method, _MOST_CALLS) if what != "branches"}


def _in_order(kind: type, method: str, depth: int) -> Iterator[tuple[str, str]]:
    """What a method of a script's class does with attributes of its object: ("reads" | "sets" | "branches", name)."""
    function = inspect.getattr_static(kind, method, None)
    if depth == 0 or not isinstance(function, types.FunctionType) or is_of_library(function.__module__):
        return
    code = function.__code__
    for instruction, owner in _with_owners(code):
        if instruction.opname == "STORE_ATTR" and owner == _first_of(code):
            yield "sets", instruction.argval
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and owner == _first_of(code):
            yield "reads", instruction.argval
            yield from _in_order(kind, instruction.argval, depth - 1)
        elif instruction.opcode in _JUMPS and instruction.opname != "FOR_ITER":
            yield "branches", ""


_JUMPS = {*dis.hasjrel, *dis.hasjabs}


def _functions_of(kind: type) -> Iterator[types.FunctionType]:
    for member in vars(kind).values():
        of_member: tuple[Any, ...] = (getattr(member, "__func__", member),)
        if isinstance(member, property):
            of_member = (member.fget, member.fset)
        for function in of_member:
            if isinstance(function, types.FunctionType):
                yield function
                yield from _wrapped_in(function)


def _wrapped_in(function: Any) -> Iterator[types.FunctionType]:
    """What decorators have wrapped."""
    while isinstance(function := vars(function).get("__wrapped__"), types.FunctionType):
        yield function


def _stored_in(code: types.CodeType) -> set[str]:
    """What a method, or a function in it, sets of its object."""
    names = {
        instruction.argval
        for instruction, owner in _with_owners(code)
        if instruction.opname == "STORE_ATTR" and owner == _first_of(code)
    }
    if "__setattr__" in code.co_names:  # given as text
        names |= {each for each in code.co_consts if isinstance(each, str) and each.isidentifier()}
    return names.union(*(_stored_in(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _with_owners(code: types.CodeType) -> Iterator[tuple[dis.Instruction, str | None]]:
    """Instructions, and the name of the variable that each works on, where it was read just before."""
    owner = None
    for instruction in dis.get_instructions(code):
        yield instruction, owner
        if instruction.opname == "COPY":  # `self.count += 1` reads `self` once
            continue
        loaded = instruction.argval if "LOAD_FAST" in instruction.opname or "LOAD_DEREF" in instruction.opname else None
        owner = loaded[-1] if isinstance(loaded, tuple) else loaded


def _first_of(code: types.CodeType) -> str | None:
    """The first argument's name, which is `self` in a method."""
    return code.co_varnames[0] if code.co_argcount else None
