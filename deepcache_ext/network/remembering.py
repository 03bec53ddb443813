"""Modules that somebody has given a memory, from call to call of the U-Net.

Some extensions set a forward on each attention of a U-Net, or hooks on its layers, that count the calls, to know when
one of the U-Net ends, or that collect attention maps. A reuse skips most of the layers, and from then on the count is
wrong. So these are called on a reuse too, with what they were given in the refresh, and what they return is dropped.

They are searched for once; then only what has changed is looked at, which is noticed by comparing what can change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import is_, itemgetter
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from deepcache_ext.network.memory import Known, remembers
from deepcache_ext.network.own_hooks import is_own
from deepcache_ext.network.unet import has_foreign_forward

PROJECTIONS = {"to_q", "to_k", "to_v"}
"""The children that make a module an attention."""
_HOOKS = itemgetter("_forward_pre_hooks", "_forward_hooks")

IsHosts = Callable[[Any], bool]
"""Tells whether a hook is the host's own, as those are that move weights; these are no memory."""


class Watch:
    """Knows which modules in `blocks` remember: those to call on a reuse that skips the blocks.

    These are attentions with a forward of somebody else's that remembers, attentions and layers in them with any hook
    of somebody else's, and other modules with a hook that remembers. What is in one of them is called with it.
    """

    def __init__(self, blocks: Iterable[nn.Module], is_hosts: IsHosts = lambda _hook: False) -> None:
        self._blocks = [*blocks]
        self._is_hosts = is_hosts
        self._known: Known = {}
        self._found: tuple[nn.Module, ...] = ()
        self._walk()

    def modules(self) -> tuple[nn.Module, ...]:
        """Return the modules that remember now, in the order of their blocks; the very same if nothing changed."""
        if not _same(self._children, self._children_now()):
            self._walk()
        elif not _same(self._forwards, self._forwards_now()) or self._hooks != self._hooks_now():
            self._look()
        return self._found

    def modules_soon(self) -> tuple[nn.Module, ...]:
        """Return what `modules` does, unless all that has changed since `leave` was called is what it can't notice.

        For what is asked at every reuse: it notices forwards on attentions, and hooks that somebody has added.
        """
        if self._last_hook != _hooks_so_far() or not _same(self._forwards, self._forwards_now()):
            return self.modules()
        return self._found

    def leave(self) -> None:
        """Note that from now on hooks are other people's."""
        self._last_hook = _hooks_so_far()

    def _walk(self) -> None:
        """Note all that can change, and look for modules that remember."""
        modules = [module for block in self._blocks for module in block.modules()]
        self._attentions = [module for module in modules if module._modules.keys() >= PROJECTIONS]
        self._inside = {id(part) for attention in self._attentions for part in attention.modules()}
        self._parents = [module._modules for module in modules if module._modules]
        self._children = self._children_now()
        self._all = [vars(module) for module in modules]
        self._own = [vars(attention) for attention in self._attentions]
        self._look()
        self.leave()

    def _look(self) -> None:
        self._forwards = self._forwards_now()
        self._hooks = self._hooks_now()
        forwards = {id(one) for one, own in zip(self._attentions, self._own, strict=True) if "forward" in own}
        found = [module for block in self._blocks for module in self._outermost(block, forwards)]
        self._found = tuple({id(module): module for module in found}.values())

    def _outermost(self, module: nn.Module, forwards: set[int]) -> Iterator[nn.Module]:
        if (id(module) in forwards and self._has_a_forward_to_call(module)) or self._has_a_hook_to_call(module):
            yield module
        elif self._hooks or forwards:
            for child in module._modules.values():
                if child is not None:
                    yield from self._outermost(child, forwards)

    def _has_a_forward_to_call(self, module: nn.Module) -> bool:
        return has_foreign_forward(module) and remembers(vars(module)["forward"], self._known)

    def _has_a_hook_to_call(self, module: nn.Module) -> bool:
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        foreign = [hook for hook in hooks if not is_own(hook) and not self._is_hosts(hook)]
        return bool(foreign) and (id(module) in self._inside or any(remembers(hook, self._known) for hook in foreign))

    def _children_now(self) -> list[nn.Module | None]:
        return [*chain.from_iterable(map(dict.values, self._parents))]

    def _hooks_now(self) -> list[int]:
        return [*chain.from_iterable(chain.from_iterable(map(_HOOKS, self._all)))]

    def _forwards_now(self) -> list[Any]:
        return [own.get("forward") for own in self._own]


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


def _hooks_so_far() -> int:
    """Return how many hooks were ever added to anything, as torch numbers them."""
    return int(RemovableHandle.next_id)


class Repeated:
    """Hears what some modules are given in one call of the U-Net, and gives it to them again in others."""

    def __init__(self, modules: tuple[nn.Module, ...] = ()) -> None:
        self.modules = modules
        self._handles: list[RemovableHandle] = []
        self._heard: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def covers(self, modules: tuple[nn.Module, ...]) -> bool:
        """Tell whether all of `modules` were listened to."""
        return modules is self.modules or {*map(id, modules)} <= {*map(id, self.modules)}

    def only(self, modules: tuple[nn.Module, ...]) -> Repeated:
        """Return what was heard of some of the modules."""
        if modules is self.modules:
            return self
        wanted, some = {id(module) for module in modules}, Repeated(modules)
        some._heard = [heard for heard in self._heard if id(heard[0]) in wanted]
        return some

    def enter(self) -> None:
        """Begin to listen."""
        self._heard = []
        self._handles = [module.register_forward_pre_hook(self._hear, with_kwargs=True) for module in self.modules]

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
