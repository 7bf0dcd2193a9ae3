"""Which attributes the code of a script reads, and which it only writes for somebody to look at afterwards.

A list that a callback appends to, and a counter that nothing asks for, don't change what a later batch becomes.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from mlpug.datasets.reachable import attributes_of, is_of_library

_MOST_FUNCTIONS = 2000
# Of lists, deques, sets and dicts: they return nothing.
_WRITING = {"append", "appendleft", "extend", "extendleft", "add", "insert", "update", "clear", "discard", "remove"}
_OF_ALL = {
    "vars",
    "__dict__",
    "asdict",
    "astuple",
    "deepcopy",
    "copy",
    "__getstate__",
}  # who knows what is read of them
_BY_NAME = {"getattr", "hasattr", "attrgetter"}


class ScriptReads:
    """What is read by code of the script's that a run may call.

    That is in methods that Python or a library calls (`__getitem__`, `on_...`, those that installed bases have too), in
    methods and functions which such code names, and in functions that the objects hold.

    Args:
        holders: the objects whose attributes matter.
        called: of those, the ones of which somebody was given a method.
    """

    def __init__(self, holders: Iterable[Any], called: Iterable[Any] = ()) -> None:
        self._of_class: dict[type, set[str]] = {}  # of `self`, in methods
        self._of_others: set[str] = set()  # of any other object
        self._unknown: set[type] = set()  # classes in which anything may be read
        self._named: set[str] = set()  # in the code that was looked at
        self._methods: dict[type, dict[str, Any]] = {}  # that nobody calls, as far as is known
        self._looked_at: set[int] = set()
        self._of_libraries: dict[type, dict[str, Any]] = {}  # what objects hold that isn't the script's, by attribute
        for holder in holders:
            self._begin_with(holder)
        for kind in {type(holder) for holder in called}:
            self._named.update(self._methods[kind])
        self._go_through_methods()

    def reads(self, kind: type, name: str) -> bool:
        """Whether anything but the writing of it depends on this attribute of an object of this class."""
        return kind in self._unknown or name in self._of_others or name in self._of_class.get(kind, ())

    def _begin_with(self, holder: Any) -> None:
        kind = type(holder)
        if kind not in self._of_class:
            self._of_class[kind] = set()
            self._methods[kind] = {}
            for base in reversed(kind.__mro__):
                if not is_of_library(base.__module__):
                    self._methods[kind] |= vars(base)
        held = self._of_libraries.setdefault(kind, {})
        for step, item in attributes_of(holder):
            self._look_at_function(item)
            if is_of_library(type(item).__module__):
                held[step[1:]] = item

    def _go_through_methods(self) -> None:
        goes_on = True
        while goes_on:
            goes_on = False
            for kind, methods in self._methods.items():
                of_libraries = {name for base in kind.__mro__ if is_of_library(base.__module__) for name in vars(base)}
                for name in list(methods):
                    if name in self._named or name in of_libraries or name.startswith(_CALLED_BY_PYTHON_OR_HOST):
                        goes_on = True
                        self._look_at_method(methods.pop(name), kind)

    def _look_at_method(self, member: Any, kind: type) -> None:
        parts = (member.fget, member.fset) if isinstance(member, property) else (getattr(member, "__func__", member),)
        for part in parts:
            while isinstance(part, types.FunctionType):
                self._take(part, kind)
                part = vars(part).get("__wrapped__")

    def _look_at_function(self, function: Any) -> None:
        while isinstance(function, partial):
            function = function.func
        if isinstance(function, types.MethodType):
            self._named.add(function.__name__)
        if not isinstance(function, types.FunctionType) or is_of_library(function.__module__):
            return
        if id(function) not in self._looked_at and len(self._looked_at) < _MOST_FUNCTIONS:
            self._looked_at.add(id(function))
            self._take(function, None)

    def _take(self, function: types.FunctionType, kind: type | None) -> None:
        """Add what a function reads; as a method of a class, or of nothing."""
        if function.__name__ in _FOR_COPIES_AND_PEOPLE:
            return
        try:
            of_self, of_others = _reads_in(function, self._of_libraries.get(kind, {}) if kind is not None else {})
        except (OSError, TypeError, SyntaxError, ValueError):  # there is no source
            of_self = of_others = {*function.__code__.co_names}
        self._named |= of_self | of_others
        self._of_others |= of_others if kind is not None else of_self | of_others
        if kind is not None:
            self._of_class[kind] |= of_self
            if (of_self | of_others) & _OF_ALL:
                self._unknown.add(kind)
        for name in function.__code__.co_names:
            self._look_at_function(function.__globals__.get(name))
        for cell in function.__closure__ or ():
            try:
                self._look_at_function(cell.cell_contents)
            except ValueError:  # it has no value yet
                continue


_CALLED_BY_PYTHON_OR_HOST = ("__", "on_", "set_epoch")
_FOR_COPIES_AND_PEOPLE = ("__init__", "__getstate__", "__setstate__", "__reduce__", "__repr__", "__str__")


def _reads_in(function: types.FunctionType, held: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Attributes of the first argument, and of everything else; ``vars`` where there is no telling which.

    Args:
        function: the script's.
        held: objects of libraries that the first argument has as attributes: what is theirs isn't the script's.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    code = function.__code__
    first = code.co_varnames[0] if code.co_argcount else None
    of_first: set[str] = set()
    of_others: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            is_of_first = isinstance(node.value, ast.Name) and node.value.id == first
            if _is_of_one(node, first, held):
                continue
            if not (is_of_first and _only_writes(node, list(_above(node, parents)))):
                (of_first if is_of_first else of_others).add(node.attr)
        elif isinstance(node, ast.Call):
            of_others |= _named_by(node)
    return of_first, of_others


def _is_of_one(node: ast.Attribute, first: str | None, held: Mapping[str, Any]) -> bool:
    """Whether it is `self.model.weights`, where the class of the model is a library's and knows the weights."""
    owner = node.value
    return (
        isinstance(owner, ast.Attribute)
        and isinstance(owner.value, ast.Name)
        and owner.value.id == first
        and owner.attr in held
        and inspect.getattr_static(held[owner.attr], node.attr, _MISSING) is not _MISSING
    )


_MISSING = object()


def _named_by(call: ast.Call) -> set[str]:
    """What `getattr` and its like are asked for by name."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function not in _BY_NAME:
        return {function} & _OF_ALL
    names = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return set(names) or {"vars"}


def _above(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while node in parents:
        node = parents[node]
        yield node


def _only_writes(node: ast.Attribute, above: list[ast.AST]) -> bool:
    """Whether a value is read for nothing but to change it.

    `self.x.append(1)`, `self.x["a"] = 1`, `self.x["a"].append(1)`, `self.x = self.x + 1`.
    """
    for statement in above:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Attribute) and ast.dump(target.value) == ast.dump(node.value):
                return target.attr == node.attr
    if isinstance(above[0], ast.Subscript) and above[0].value is node:
        if not isinstance(above[0].ctx, ast.Load):
            return True
        above = above[1:]
    if len(above) < 3:
        return False
    method, call, expression = above[:3]
    return (
        isinstance(method, ast.Attribute)
        and method.attr in _WRITING
        and isinstance(call, ast.Call)
        and call.func is method
        and isinstance(expression, ast.Expr)
    )
