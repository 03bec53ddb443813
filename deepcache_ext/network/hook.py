"""The hook that gives every call of a U-Net a view."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from deepcache_ext.network.own_hooks import OwnHooks, functions_on
from deepcache_ext.network.views import View


class CallHook:
    """Gives every call of a U-Net a view: hooks before and after whatever forward is in force.

    `choose` gets the call's input of shape (rows, channels, height, width) and its timesteps of shape (rows,), None if
    it has none, and returns the view to use, or None for the untouched U-Net. `done` gets the view and the output after
    a call that raised nothing, and returns the output to go on with. `failed` gets an exception of `choose`, `done` or
    the view; the call itself goes on untouched.
    `released` is called when the hook is removed, `displaced` before that if it is by the installation of another.
    After an interruption, such as KeyboardInterrupt, torch runs no hook, and torch 2.0 runs none after any exception;
    there `reset` tidies up.
    """

    def __init__(
        self,
        unet: nn.Module,
        choose: Callable[[Tensor, Tensor | None], View | None],
        done: Callable[[View, Any], Any],
        failed: Callable[[Exception], None],
        released: Callable[[], None],
        displaced: Callable[[], None],
    ) -> None:
        self.unet = unet
        self._choose = choose
        self._done = done
        self._failed = failed
        self._released = released
        self._displaced = displaced
        self._hooks = OwnHooks(unet)
        self._view: View | None = None
        self._calls = 0

    @property
    def installed(self) -> bool:
        """Whether the U-Net is hooked."""
        return bool(self._hooks)

    @property
    def taken_off(self) -> bool:
        """Whether somebody else has removed a part of the hook since it was installed."""
        return not self._hooks.all_there

    def install(self) -> None:
        """Hook the U-Net, after removing any hook of this class from it."""
        for hook in _hooks_on(self.unet):
            if hook is not self:
                hook._displaced()
            hook.remove()
        self._hooks.add_before(self._before)
        self._hooks.add_after(self._after, always=True)

    def remove(self) -> None:
        """Leave the U-Net as it was found."""
        self.reset()
        self._hooks.remove()
        self._released()

    def reset(self) -> None:
        """Put the block lists back if a call was left without our hearing of it."""
        if self._view is not None:
            self._view.exit()
        self._view = None
        self._calls = 0

    def _before(self, _unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls += 1
        try:
            if self._calls == 1:
                x = args[0] if args else kwargs["x"]
                self._view = self._choose(x, args[1] if len(args) > 1 else kwargs.get("timesteps"))
                if self._view is not None:
                    self._view.enter()
            elif self._calls == 2 and self._view is not None:
                self._view.exit()  # a forward that calls the U-Net itself: that call sees the originals
        except Exception as error:  # noqa: BLE001 - ours, whatever it is: the picture is made without
            self._view = None
            self._failed(error)

    def _after(self, _unet: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        self._calls = max(0, self._calls - 1)
        try:
            if self._calls == 1 and self._view is not None:
                self._view.enter()
            elif self._calls == 0 and self._view is not None:
                view, self._view = self._view, None
                view.exit()
                if view.failure is not None:
                    raise view.failure
                if output is not None:
                    return self._done(view, output)
        except Exception as error:  # noqa: BLE001 - ours, whatever it is: the picture is made without
            self._failed(error)
        return output


def reset_hooks(model: Any) -> None:
    """Put back every block list in `model` that an abandoned call left exchanged; see `CallHook.reset`."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        for hook in _hooks_on(module):
            hook.reset()


def _hooks_on(module: nn.Module) -> Iterator[CallHook]:
    owners = (getattr(function, "__self__", None) for function in functions_on(module))
    return iter(dict.fromkeys(owner for owner in owners if isinstance(owner, CallHook)))
