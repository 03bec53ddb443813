"""Hooks that stay behind when their module is copied, pickled or saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

_ALWAYS: dict[str, Any] = (
    {"always_call": True} if "always_call" in inspect.signature(nn.Module.register_forward_hook).parameters else {}
)
"""Has a forward hook run after an exception too, though not after an interruption, which torch 2.0 can't."""
_GETSTATE = "__getstate__"


class OwnHooks:
    """Hooks before and after the forward of `module`, which a copy of it does not have.

    A hook before gets the module, its positional arguments and those by name; one after gets the module, its positional
    arguments and its output. `failed` gets an exception of a hook, and the call goes on as without it; if there is no
    `failed`, the exception goes to who called the module.
    """

    def __init__(self, module: nn.Module, failed: Callable[[Exception], None] | None = None) -> None:
        self._module = module
        self._failed = failed
        self._handles: list[RemovableHandle] = []

    def __bool__(self) -> bool:
        return bool(self._handles)

    @property
    def all_there(self) -> bool:
        """Whether nobody else has removed any of them."""
        before, after = self._module._forward_pre_hooks, self._module._forward_hooks
        return all(handle.id in before or handle.id in after for handle in self._handles)

    def add_before(self, function: Callable[..., Any], *, first: bool = False) -> None:
        """Call `function` before the forward; with `first` before all hooks that are there already."""
        hook = _Hook(function, self._failed)
        self._add(self._module.register_forward_pre_hook(hook, prepend=first, with_kwargs=True))

    def add_after(self, function: Callable[..., Any], *, always: bool = False) -> None:
        """Call `function` after the forward; with `always` also where it raised, with None as the output."""
        self._add(self._module.register_forward_hook(_Hook(function, self._failed), **(_ALWAYS if always else {})))

    def remove(self) -> None:
        """Leave the module as it was found."""
        for handle in self._handles:
            handle.remove()
            for hooks in _dictionaries_of_hooks(vars(self._module)):  # somebody may have put others in place since
                hooks.pop(handle.id, None)
        self._handles = []
        if not any(functions_on(self._module)):
            vars(self._module).pop(_GETSTATE, None)

    def _add(self, handle: RemovableHandle) -> None:
        self._handles.append(handle)
        vars(self._module)[_GETSTATE] = partial(_state_of_a_copy, self._module)


class _Hook:
    """A function that is known to be a hook of ours."""

    def __init__(self, function: Callable[..., Any], failed: Callable[[Exception], None] | None) -> None:
        self.function = function
        self._failed = failed
        self.__name__ = "deepcache"  # somebody who looks for a hook of their own by its name asks every hook for one

    def __call__(self, *args: Any) -> Any:
        try:
            return self.function(*args)
        except Exception as error:
            if self._failed is None:
                raise
            self._failed(error)


def is_own(hook: Any) -> bool:
    """Tell whether a hook is one of this kind."""
    return isinstance(hook, _Hook)


def functions_on(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """Return the functions that are hooks of this kind on `module`."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return (hook.function for hook in hooks if isinstance(hook, _Hook))


def _state_of_a_copy(module: nn.Module) -> Any:
    """Return what a copy or a pickle of `module` starts from: what it would without hooks of this kind."""
    of_class = getattr(type(module), _GETSTATE, None)
    state = vars(module) if of_class is None else of_class(module)
    if not isinstance(state, dict):
        return state
    hooks = [*module._forward_pre_hooks.items(), *module._forward_hooks.items()]
    ours = {number for number, hook in hooks if isinstance(hook, _Hook)}
    return {
        name: type(value)((k, v) for k, v in value.items() if k not in ours) if _are_hooks(name, value) else value
        for name, value in state.items()
        if name != _GETSTATE
    }


def _dictionaries_of_hooks(attributes: dict[str, Any]) -> list[dict[int, Any]]:
    return [value for name, value in attributes.items() if _are_hooks(name, value)]


def _are_hooks(name: str, value: object) -> bool:
    return name.startswith("_forward_") and isinstance(value, dict)
