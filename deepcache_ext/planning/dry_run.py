"""What a sampler will do in a run, asked of its own function: run once on a small tensor with a stand-in denoiser.

Samplers work element by element, and most of them are linear in what the denoiser returns. So one run tells all: the
input starts as 1 in its first element and 0 in the others, and the k-th evaluation returns 1 in element k + 1 and 0 in
the others. Then the input of evaluation i, read off, is the weight of each earlier output in it. Noise that is drawn is
1 in the last element, which shows where noise arrives. A second run on random numbers proves that the weights are the
sampler's. No source is known.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepcache_ext.planning.sampler_run import Array, SamplerRun, rises
from deepcache_ext.sentence import of_error

SHAPE = (1, 4, 16, 16)
"""Of the small tensor."""
LONGEST = 5.0
"""How many seconds of the processor's time each of its runs may take; what else the machine does must not matter."""
MOST = 2000
"""How many evaluations it may make."""
_NOISE = frozenset({
    "bernoulli", "bernoulli_", "exponential_", "multinomial", "normal", "normal_", "poisson", "rand", "rand_like",
    "randint", "randint_like", "randn", "randn_like", "random_", "uniform_",
})  # fmt: skip
"""torch's functions that draw random numbers."""

Denoise = Callable[..., Tensor]
"""Takes an input and its noise level or timestep, and whatever the sampler hands over beside them."""
Run = Callable[[Denoise, Tensor], Any]
"""Calls the sampler's function with a denoiser and an input of shape `SHAPE`, and returns what it returns."""


class UnansweredError(Exception):
    """A dry run that tells nothing; its message says why."""


class _RaisedError(UnansweredError):
    """A sampler's own error."""


def ask(run: Run, device: torch.device | str = "cpu") -> SamplerRun:
    """Return what the sampler does that `run` calls with all that it is given in a real run.

    Everything is on `device`, where the sampler's own tensors are, in double precision if the device and the sampler
    have that. The random state of torch, numpy and Python is left as it was; what `run` is given beside is not touched.

    Raises UnansweredError if the sampler raises, takes longer than `LONGEST` or makes more evaluations than `MOST`.
    """
    device = torch.device(device)
    with _random_state_of(device), torch.no_grad():
        if device.type in {"cpu", "cuda"}:  # others have no double precision, and some samplers can't have it
            with suppress(_RaisedError):
                return _answer(run, device, torch.float64)
        return _answer(run, device, torch.float32)


def _answer(run: Run, device: torch.device, dtype: torch.dtype) -> SamplerRun:
    size, generator = math.prod(SHAPE), np.random.default_rng(0)

    def unit(position: int) -> Tensor:
        found = torch.zeros(size, dtype=dtype, device=device)
        found[position] = 1
        return found.view(SHAPE)

    def numbers() -> Tensor:
        return torch.as_tensor(generator.standard_normal(SHAPE), dtype=dtype).to(device)

    def shown(number: int) -> Tensor:
        return unit(min(number + 1, size - 2))

    told = _made(run, unit(0), shown, noise=1.0)
    noisy, risen = told.adds_noise, rises(told.levels)
    if noisy and risen:
        noisy = _made(run, unit(0), shown, noise=1.0, silent=risen).adds_noise
    start, outputs = 10 * numbers(), [numbers() for _ in told.levels]
    checked = _made(run, start, lambda number: outputs[min(number, len(outputs) - 1)], noise=0.0)
    itself = len(checked.levels) != len(told.levels)
    others = frozenset(number for number, x in enumerate(told.inputs) if x is None)
    if itself or others or len(told.levels) > size - 2:
        others -= {len(told.levels)}
        return SamplerRun(told.levels, None, noisy=noisy, others=others, decides_itself=itself)
    found, wanted = told.rows(), checked.rows()
    weights = found[:, 1 : len(told.levels) + 1]
    given = np.outer(found[:, 0], start.cpu().numpy()) + weights @ torch.stack(outputs).flatten(1).cpu().numpy()
    error = np.abs(wanted - given).max() / max(1.0, float(np.abs(wanted).max()))
    if not error <= (1e-6 if dtype == torch.float64 else 1e-3):
        return SamplerRun(told.levels, None, noisy=noisy)
    return SamplerRun(told.levels, weights, found[:, 0], noisy=noisy)


def _made(
    run: Run, start: Tensor, answer: Callable[[int], Tensor], *, noise: float, silent: frozenset[int] = frozenset()
) -> _Found:
    """Return what a run from `start` shows that gets these answers, and `noise` wherever it draws random numbers.

    What it draws just before the evaluations in `silent` is 0.
    """
    recorder = _Recorder(answer)
    drawing = _Noise(lambda: 0.0 if len(recorder.levels) in silent else noise)
    try:
        with drawing:
            end = run(recorder, start.clone())
    except UnansweredError:
        raise
    except Exception as error:  # whatever it is: the sampler is somebody else's
        raise _RaisedError(of_error(error)) from error
    if not recorder.levels:
        raise UnansweredError("it made no evaluation")
    levels = [float(level.flatten()[0]) if isinstance(level, Tensor) else float(level) for level in recorder.levels]
    is_usual = isinstance(end, Tensor) and end.shape == SHAPE
    return _Found(tuple(levels), [*recorder.inputs, end.reshape(-1) if is_usual else None])


@dataclass(frozen=True)
class _Found:
    """What one dry run shows."""

    levels: tuple[float, ...]
    inputs: Sequence[Tensor | None]
    """Of each evaluation, and the run's end, flat; None for another size."""

    @property
    def adds_noise(self) -> bool:
        """Whether noise has reached any of them."""
        return any(bool(x[-1]) for x in self.inputs if x is not None)

    def rows(self) -> Array:
        """Return the inputs and the end, of shape (evaluations + 1, elements)."""
        found = torch.stack([x for x in self.inputs if x is not None]).cpu()  # many devices have no double precision
        return found.double().numpy()


@dataclass
class _Recorder:
    """The stand-in denoiser: notes what it is called with, and returns what `answer` has for its k-th call."""

    answer: Callable[[int], Tensor]
    inputs: list[Tensor | None] = field(default_factory=list)
    """Of each evaluation, flat; None of one at another size."""
    levels: list[Any] = field(default_factory=list)
    begun: float = field(default_factory=time.thread_time)

    def __call__(self, x: Tensor, level: Any, *_args: Any, **_kwargs: Any) -> Tensor:
        if len(self.levels) == MOST:
            raise UnansweredError(f"more than {MOST} evaluations")
        if time.thread_time() - self.begun > LONGEST:
            raise UnansweredError(f"longer than {LONGEST:g} s")
        self.levels.append(level)
        usual = x.shape == SHAPE
        self.inputs.append(x.detach().reshape(-1).clone() if usual else None)
        return self.answer(len(self.levels) - 1).to(x.dtype) if usual else torch.zeros_like(x)


class _Noise(TorchFunctionMode):
    """Has whatever draws random numbers return 0, but `value()` in the last element of a tensor as large as `SHAPE`."""

    def __init__(self, value: Callable[[], float]) -> None:
        super().__init__()
        self._value = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in _NOISE:
            return func(*args, **(kwargs or {}))
        drawn = func(*args, **{name: value for name, value in (kwargs or {}).items() if name != "generator"}).zero_()
        if drawn.numel() == math.prod(SHAPE) and drawn.is_floating_point():
            drawn.view(-1)[-1] = self._value()
        return drawn


@contextmanager
def _random_state_of(device: torch.device) -> Iterator[None]:
    """Leave the random state of torch, on the processor and on `device`, numpy and Python as it was."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(of_numpy)
        random.setstate(of_python)
