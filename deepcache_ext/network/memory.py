"""Telling by its code whether a function remembers something from call to call.

It does if it, or a function that it reaches, assigns to what is still there when it has returned: a global, an
attribute, an outer variable, or, as an item or by a method that changes it, anything that it has not made itself. It
reaches functions of the same file that it names, its objects' methods there, and whatever functions it was given
before it was called: in a closure, as a partial's arguments, as a default. What is not written in Python is not seen,
but for the methods of Python's own containers.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Iterator, Sequence
from types import BuiltinMethodType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

CHANGES = frozenset({
    "append", "appendleft", "extend", "extendleft", "insert", "add", "update", "setdefault", "pop", "popitem",
    "popleft", "clear", "remove", "discard", "put", "put_nowait", "write", "__setitem__",
})  # fmt: skip
"""Methods by which containers, queues and files change."""
ACCESSES = frozenset({"get", "getattr", "vars", "globals", "setdefault", "__getitem__"})
"""What is called to have something that was there before."""
KEYS = {"STORE_SUBSCR": 1, "DELETE_SUBSCR": 1, "STORE_SLICE": 2}
"""How much lies on the stack above the container that an instruction changes."""
LASTING = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_ATTR", "DELETE_ATTR"})
NO_PART = frozenset({"EXTENDED_ARG", "NOP", "CACHE", "PRECALL", "PUSH_NULL", "COPY_FREE_VARS", "MAKE_CELL"})
"""Instructions that are no part of an expression."""
UNCHANGING = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset)

Known = dict[tuple[CodeType, frozenset[str]], bool]
"""Whether code changes what stays, by the code and its parameters that were set before it was called."""


def remembers(function: Any, known: Known | None = None) -> bool:
    """Tell whether `function`, or anything else that can be called, remembers; `known` spares it reading code again."""
    known = {} if known is None else known
    found: list[tuple[Any, bool]] = [(function, False)]
    for one, is_named in found:
        if isinstance(one, BuiltinMethodType) and one.__name__ in CHANGES and not isinstance(one.__self__, Tensor):
            return True
        if isinstance(one, Iterator):
            return True
        opened = _open(one)
        if opened is None:
            continue
        code_of, objects, before = opened
        if not _is_torchs(code_of):
            code = code_of.__code__
            before = frozenset(_parameters(code)) if is_named else before
            if (code, before) not in known:
                known[code, before] = _changes_what_stays(code, before)
            if known[code, before]:
                return True
        found += [new for new in _reached(code_of, objects) if not any(new[0] is old for old, _ in found)]
    return False


def _open(one: Any) -> tuple[FunctionType, list[Any], frozenset[str]] | None:
    """Return what a call of `one` runs, what that has before it is called, and the parameters which hold that.

    None if it is not written in Python.
    """
    places: list[Any] = []
    names: dict[str, Any] = {}
    while not isinstance(one, FunctionType):
        if isinstance(one, functools.partial):
            places[:0] = one.args
            names = one.keywords | names
            one = one.func
        elif isinstance(one, MethodType):
            places.insert(0, one.__self__)
            one = one.__func__
        elif isinstance(one, nn.Module) and "forward" in vars(one):
            one = vars(one)["forward"]
        else:
            called = "forward" if isinstance(one, nn.Module) else "__call__"
            places.insert(0, one)
            one = inspect.getattr_static(type(one), called, None)
            if not isinstance(one, (FunctionType, MethodType, functools.partial)):
                return None
    code, defaults = one.__code__, one.__defaults__ or ()
    parameters = code.co_varnames[: code.co_argcount]
    names |= zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True)
    names |= one.__kwdefaults__ or {}
    names |= zip(parameters, places, strict=False)
    names = {name: value for name, value in names.items() if not isinstance(value, UNCHANGING)}
    return one, [*places, *names.values()], frozenset(names)


def _parameters(code: CodeType) -> tuple[str, ...]:
    """Return the names of the parameters, without those that a call makes: *args and **kwargs."""
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _reached(function: FunctionType, objects: list[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield what the function may call, and whether by its name, and so with anything, not with what the call gives."""
    given = [*(cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)), *objects]
    if not _is_torchs(function):
        for name in sorted({name for code in _codes(function.__code__) for name in code.co_names}):
            methods: list[Any] = [inspect.getattr_static(type(thing), name, None) for thing in given]
            for one in (function.__globals__.get(name), *methods):
                if isinstance(one, FunctionType) and one.__globals__ is function.__globals__:
                    yield one, True
    for thing in given:
        if isinstance(thing, Iterator) or (callable(thing) and not _is_a_modules_own(thing)):
            yield thing, False


def _is_torchs(function: FunctionType) -> bool:
    """Tell whether a function is torch's, such as what its decorators make, whose contexts are no memory."""
    file = str(function.__globals__.get("__name__"))  # its own __module__ is that of the function which it decorates
    return file.partition(".")[0] == "torch"


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asking is how one knows
    except ValueError:
        return False
    return True


def _is_a_modules_own(one: Any) -> bool:
    """Tell whether `one` is a class, a module, or a method of a module's class."""
    holder = getattr(one, "__self__", None)
    own = isinstance(holder, nn.Module) and getattr(type(holder), one.__name__, None) is getattr(one, "__func__", None)
    return own or isinstance(one, (type, nn.Module))


def _codes(code: CodeType) -> list[CodeType]:
    codes = [code]
    for one in codes:
        codes += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
    return codes


def _changes_what_stays(code: CodeType, before: frozenset[str]) -> bool:
    """Tell whether a function's code changes what it has not made; `before` are parameters that it had before."""
    codes = [[one for one in dis.get_instructions(part) if one.opname not in NO_PART] for part in _codes(code)]
    there = before.union(code.co_freevars, *(_parameters(part) for part in _codes(code)[1:]))
    for instructions in codes:
        there = there.union(*(_names(one) for at, one in enumerate(instructions) if _takes(instructions, at)))
    return any(
        one.opname in LASTING
        or (one.opname in {"STORE_DEREF", "DELETE_DEREF"} and one.argval in code.co_freevars)
        or _changes(instructions, at, there)
        for instructions in codes
        for at, one in enumerate(instructions)
    )


def _takes(instructions: Sequence[dis.Instruction], at: int) -> bool:
    """Tell whether an instruction gives a variable something that was there before."""
    if not instructions[at].opname.startswith(("STORE_FAST", "STORE_DEREF")) or not at:
        return False
    return instructions[at - 1].opname == "FOR_ITER" or _was_there(instructions, at - 1, frozenset())


def _changes(instructions: Sequence[dis.Instruction], at: int, there: frozenset[str]) -> bool:
    """Tell whether an instruction changes something in one of the variables `there`, or in what it takes elsewhere."""
    one = instructions[at]
    if one.opname in {"LOAD_METHOD", "LOAD_ATTR"}:
        return str(one.argval) in CHANGES and _was_there(instructions, at - 1, there)
    if one.opname == "LOAD_GLOBAL":
        return str(one.argval) == "setattr"
    if one.opname not in KEYS:
        return False
    end = at - 1
    if instructions[end].opname in {"SWAP", "ROT_THREE", "ROT_FOUR"}:  # an item that is worked out from what it was
        end = max(number for number in range(at) if instructions[number].opname in {"COPY", "DUP_TOP_TWO"})
        while instructions[end].opname in {"COPY", "DUP_TOP_TWO"}:
            end -= 1
    above = KEYS[one.opname]
    while above > 0 <= end:
        above -= dis.stack_effect(instructions[end].opcode, instructions[end].arg, jump=False)
        end -= 1
    return _was_there(instructions, end, there)


def _was_there(instructions: Sequence[dis.Instruction], end: int, there: frozenset[str]) -> bool:
    """Tell whether the expression that ends there is something that the function has not made itself."""
    last = instructions[end]
    if last.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE")):
        return bool(there) and _names(last)[-1] in there
    if last.opname.startswith(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "BINARY_SUBSCR", "BINARY_SLICE")):
        return True
    if not last.opname.startswith("CALL"):
        return False
    for one in reversed(instructions[:end]):
        if one.opname.startswith(("STORE_", "POP_TOP", "RETURN_")):
            return False
        if one.opname in {"LOAD_METHOD", "LOAD_ATTR", "LOAD_GLOBAL"} and one.argval in ACCESSES:
            return True
    return False


def _names(instruction: dis.Instruction) -> tuple[str, ...]:
    """Return the variables of an instruction, of which some versions of Python have two."""
    value = instruction.argval
    return value if isinstance(value, tuple) else (value,)
