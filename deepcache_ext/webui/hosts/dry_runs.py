"""Asking the host's sampler what the run that it is about to make will do, without a trace of it in the host."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deepcache_ext.network.own_hooks import OwnHooks
from deepcache_ext.planning.dry_run import Denoise, UnansweredError, ask
from deepcache_ext.planning.sampler_run import SamplerRun

_OPTIONS, _AFTER = "model_options", "sampler_post_cfg_function"
"""What of a sampler's arguments for its denoiser has functions that get the guided output, and what it is made of.

On Forge's family the CFG++ samplers add one of their own to them.
"""


class Launched:
    """A run of one of the host's samplers that is about to be launched: its function and what that is called with.

    `run` is what the host launches, a closure around the sampler's function.
    """

    def __init__(self, sampler: Any, run: Callable[[], Any]) -> None:
        self._sampler = sampler
        self._arguments = _arguments_of(run)
        self._function = getattr(sampler, "func", None)

    @property
    def can_be_asked(self) -> bool:
        """Whether the host shows the sampler's function and its arguments."""
        return self._arguments is not None and callable(self._function)

    def key(self) -> Any:
        """Return what is equal for runs that do the same; hashable."""
        given = self._arguments or {}
        return self._function, tuple((name, _plain(value)) for name, value in sorted(given.items()))

    def ask(self, unet: nn.Module | None) -> SamplerRun:
        """Return what the run will do. The host's `unet` must not be called meanwhile.

        Raises UnansweredError where it can't be told.
        """
        if not self.can_be_asked:
            raise UnansweredError("the host does not show how it is called")
        latent = getattr(self._sampler, "last_latent", None)
        device = latent.device if isinstance(latent, Tensor) else torch.device("cpu")
        uncond = _Uncond()
        draws = "noise_sampler" in _parameters(self._function)

        def run(denoise: Denoise, x: Tensor) -> Any:
            def noise(*_args: Any, **_kwargs: Any) -> Tensor:
                return torch.randn_like(x)

            given = dict(self._arguments or {})
            if draws:  # a Brownian tree, its own or the host's, takes a hundred times as long
                given["noise_sampler"] = noise
            extra = _copied(getattr(self._sampler, "sampler_extra_args", None) or {})
            denoiser = _StandIn(denoise, getattr(self._sampler, "model_wrap_cfg", None), uncond, _after(extra))
            with _replaced(getattr(self._sampler.p, "rng", None), "next", noise):
                return self._function(denoiser, x, extra_args=extra, disable=True, callback=_ignore, **given)  # type: ignore[misc]

        with _refused(unet):
            found = ask(run, device)
        return found.of_guidance() if uncond.is_looked_at else found


class _Uncond:
    """Whether a sampler looks at what the denoiser makes of the unconds, beside what it returns."""

    is_looked_at = False


class _StandIn:
    """The sampler's denoiser in a dry run: has all that the host's has, and calls no network."""

    def __init__(self, denoise: Denoise, real: Any, uncond: _Uncond, others: Sequence[Any]) -> None:
        self._denoise = denoise
        self._real = real
        self._uncond = uncond
        self._others = others

    def __call__(self, x: Tensor, level: Any, *_args: Any, **extra: Any) -> Tensor:
        made = self._last = self._denoise(x, level)
        for function in _after(extra):
            if function not in self._others:  # the sampler's own
                self._uncond.is_looked_at = True
                outputs = dict.fromkeys(("denoised", "cond_denoised", "uncond_denoised"), made)
                made = function(outputs | {"input": x, "sigma": level, "model": self, _OPTIONS: extra[_OPTIONS]})
        return made

    @property
    def last_noise_uncond(self) -> Tensor:
        """What A1111's CFG++ samplers look at."""
        self._uncond.is_looked_at = True
        return self._last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __delattr__(self, name: str) -> None:
        """Delete what a sampler has set here; what it has not is the host's and stays."""
        vars(self).pop(name, None)


def _after(extra: Mapping[str, Any]) -> Sequence[Any]:
    """Return the functions that are called after the guidance."""
    return [*(extra.get(_OPTIONS) or {}).get(_AFTER, ())]


def _arguments_of(run: Callable[[], Any]) -> Mapping[str, Any] | None:
    """Return what a run's sampler is called with, out of the closure that is launched; None if it shows nothing."""
    try:
        found = inspect.getclosurevars(run).nonlocals.get("extra_params_kwargs")
    except (TypeError, ValueError):  # no Python function, or a cell that is still empty
        return None
    return found if isinstance(found, Mapping) else None


def _parameters(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.flatten().tolist())
    return value if isinstance(value, (bool, float, int, str, type(None))) else type(value)


def _copied(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy that a sampler may change, as it may the dictionaries in it."""
    return {name: dict(value) if type(value) is dict else value for name, value in extra.items()}


def _ignore(_step: Any) -> None:
    """Stand in for the host's callback, which moves its progress on."""


@contextmanager
def _refused(unet: nn.Module | None) -> Iterator[None]:
    """Have a call of the U-Net end the dry run."""
    hooks = OwnHooks(unet) if unet is not None else None

    def refuse(*_args: Any) -> None:
        raise UnansweredError("it calls the network by itself")

    if hooks is not None:
        hooks.add_before(refuse, first=True)
    try:
        yield
    finally:
        if hooks is not None:
            hooks.remove()


@contextmanager
def _replaced(thing: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Have a method of `thing`, if there is one, be another function for a while."""
    if not hasattr(thing, name):
        yield
        return
    vars(thing)[name] = function
    try:
        yield
    finally:
        del vars(thing)[name]
