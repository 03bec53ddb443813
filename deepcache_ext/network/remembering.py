"""Modules that somebody has given a memory, from call to call of the U-Net.

Some extensions set a forward on each attention of a U-Net, or hooks on its layers, that count the calls, to know when
one of the U-Net ends, or that collect attention maps. A reuse skips most of the layers, and from then on the count is
wrong. So these are called on a reuse too, with what they were given in the refresh, and what they return is dropped.

They are searched for once; then only what has changed is looked at, which is noticed by comparing what can change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import is_
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from deepcache_ext.network.memory import Known, remembers
from deepcache_ext.network.own_hooks import is_own
from deepcache_ext.network.unet import has_foreign_forward

PROJECTIONS = {"to_q", "to_k", "to_v"}
"""The children that make a module an attention."""

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

    def modules(self, *, for_reuse: bool = False) -> tuple[nn.Module, ...]:
        """Return the modules that remember now, in the order of their blocks; the very same if nothing has changed.

        What has is noticed by comparing: the forwards on attentions, the hooks on whatever has some, how many hooks
        were added to anything since `leave`, and but `for_reuse` what leads from the blocks to the attentions.
        """
        added = self._hooks_before != hooks_so_far()
        if added or not (for_reuse or _same(self._on_the_way, self._on_the_way_now())):
            self._walk()
        elif not _same(self._forwards, self._forwards_now()) or self._hooks != self._hooks_now():
            self._look()
        return self._found

    def leave(self) -> None:
        """Tell that hooks which are added from now on are other people's."""
        self._hooks_before = hooks_so_far()

    def prepare(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Do for a module that remembers what the host does when the block around it is called, as to move weights.

        The host's hooks on the block get `args`, which the module is about to be called with.
        """
        block = self._block_of.get(id(module), module)
        if block is module:
            return
        with_names = block._forward_pre_hooks_with_kwargs
        for number, hook in [*block._forward_pre_hooks.items()]:
            if self._is_hosts(hook):
                hook(block, args, *([{}] if number in with_names else []))

    def _walk(self) -> None:
        """Go through all modules for attentions, hooks, and what leads to them; then look which of them remember."""
        self._attentions: list[nn.Module] = []
        self._hooked: list[nn.Module] = []
        self._inside: set[int] = set()
        self._parents: list[dict[str, nn.Module | None]] = []
        self._names: list[str] = []
        for block in self._blocks:
            self._walk_in(block)
        self._own = [vars(attention) for attention in self._attentions]
        self._on_the_way = self._on_the_way_now()
        self._look()
        self.leave()

    def _walk_in(self, module: nn.Module) -> bool:
        """Walk in one module and return whether it is an attention or has one."""
        if module._forward_pre_hooks or module._forward_hooks:
            self._hooked.append(module)
        found = module._modules.keys() >= PROJECTIONS
        if found:
            self._attentions.append(module)
            self._inside.update(id(part) for part in module.modules())
        for name, child in module._modules.items():
            if child is not None and self._walk_in(child):
                self._parents.append(module._modules)
                self._names.append(name)
                found = True
        return found

    def _look(self) -> None:
        self._forwards = self._forwards_now()
        self._hooks = self._hooks_now()
        self._to_call = {id(module) for module in self._attentions if self._has_a_forward_to_call(module)}
        self._to_call.update(id(module) for module in self._hooked if self._has_a_hook_to_call(module))
        blocks = self._blocks if self._to_call else []
        found = [(module, block) for block in blocks for module in self._outermost(block)]
        self._found = tuple({id(module): module for module, _ in found}.values())
        self._block_of = {id(module): block for module, block in found}

    def _outermost(self, module: nn.Module) -> Iterator[nn.Module]:
        if id(module) in self._to_call:
            yield module
            return
        for child in module._modules.values():
            if child is not None:
                yield from self._outermost(child)

    def _has_a_forward_to_call(self, module: nn.Module) -> bool:
        return (
            "forward" in vars(module)
            and has_foreign_forward(module)
            and remembers(vars(module)["forward"], self._known)
        )

    def _has_a_hook_to_call(self, module: nn.Module) -> bool:
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        foreign = [hook for hook in hooks if not is_own(hook) and not self._is_hosts(hook)]
        return bool(foreign) and (id(module) in self._inside or any(remembers(hook, self._known) for hook in foreign))

    def _on_the_way_now(self) -> list[nn.Module | None]:
        return [*map(dict.get, self._parents, self._names)]

    def _forwards_now(self) -> list[Any]:
        return [own.get("forward") for own in self._own]

    def _hooks_now(self) -> list[int]:
        hooks = (of for one in self._hooked for of in (one._forward_pre_hooks, one._forward_hooks))
        return [number for of in hooks for number in of]


def hooks_so_far() -> int:
    """Return how many hooks were ever added to anything, by which torch numbers them."""
    return int(RemovableHandle.next_id)


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


class Repeated:
    """Hears what some modules are given in one call of the U-Net, and gives it to them again in others.

    `prepare` gets each of them and its positional arguments before it is called again.
    """

    def __init__(
        self, modules: tuple[nn.Module, ...] = (), prepare: Callable[[nn.Module, tuple[Any, ...]], None] | None = None
    ) -> None:
        self.modules = modules
        self._prepare = prepare
        self._handles: list[RemovableHandle] = []
        self._heard: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def covers(self, modules: tuple[nn.Module, ...]) -> bool:
        """Tell whether all of `modules` were listened to."""
        return modules is self.modules or {*map(id, modules)} <= {*map(id, self.modules)}

    def only(self, modules: tuple[nn.Module, ...]) -> Repeated:
        """Return what was heard of some of the modules."""
        if modules is self.modules:
            return self
        wanted, some = {id(module) for module in modules}, Repeated(modules, self._prepare)
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
            if self._prepare is not None:
                self._prepare(module, args)
            module(*args, **kwargs)

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._heard.append((module, args, kwargs))
