"""Attentions with a forward of somebody else's that remembers something from call to call.

Some extensions set a forward on each attention of a U-Net that counts its calls, to know when one of the U-Net ends, or
that collects attention maps. A reuse skips most attentions, and from then on the count is wrong. So these are called
on a reuse too, with what they were given in the refresh, and what they return is dropped.
"""

from __future__ import annotations

import dis
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from deepcache_ext.network.unet import has_foreign_forward

PROJECTIONS = {"to_q", "to_k", "to_v"}
"""The children that make a module an attention."""


def remembering(blocks: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the attentions in `blocks` on which somebody has set a forward that remembers."""
    modules = (module for block in blocks for module in block.modules() if "forward" in vars(module))
    return [
        module
        for module in modules
        if module._modules.keys() >= PROJECTIONS and has_foreign_forward(module) and remembers(vars(module)["forward"])
    ]


def remembers(forward: Any) -> bool:
    """Tell whether a function, or one beside it that it names, assigns to a global, an attribute or an outer variable.

    What it would change by a method, such as a list's, is not seen, nor is anything that is not written in Python.
    """
    found = [getattr(forward, "__func__", forward)]
    for function in found:
        if not isinstance(function, FunctionType):
            continue
        names: set[str] = set()
        for code in _codes(function.__code__):
            if any(_outlives(instruction, function.__code__) for instruction in dis.get_instructions(code)):
                return True
            names.update(code.co_names)
        named = [function.__globals__.get(name) for name in sorted(names)]
        found += [one for one in named if isinstance(one, FunctionType) and _is_beside(one, function, found)]
    return False


def _codes(code: CodeType) -> list[CodeType]:
    codes = [code]
    for one in codes:
        codes += [constant for constant in one.co_consts if isinstance(constant, CodeType)]
    return codes


def _outlives(instruction: dis.Instruction, outermost: CodeType) -> bool:
    """Tell whether an instruction assigns to what is still there when the outermost function has returned."""
    if instruction.opname == "STORE_DEREF":
        return instruction.argval in outermost.co_freevars
    return instruction.opname in {"STORE_GLOBAL", "STORE_ATTR"}


def _is_beside(one: FunctionType, function: FunctionType, found: list[Any]) -> bool:
    return one.__globals__ is function.__globals__ and one not in found


class Repeated:
    """Hears what some modules are given in one call of the U-Net, and gives it to them again in others."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._handles: list[RemovableHandle] = []
        self._heard: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def enter(self) -> None:
        """Begin to listen."""
        self._heard = []
        self._handles = [module.register_forward_pre_hook(self._hear, with_kwargs=True) for module in self._modules]

    def exit(self) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def again(self) -> None:
        """Call the modules in the order in which they were, each with what it was given."""
        for module, args, kwargs in self._heard:
            module(*args, **kwargs)

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._heard.append((module, args, kwargs))
