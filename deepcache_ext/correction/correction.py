"""What reuses owe a run, found out at the next refresh and made up for by what later evaluations return.

A reuse guesses its feature. At the next refresh the feature is known on both sides of it, so that a far better guess
can be had afterwards: on the line between the two. What the better one would have changed in the run is linear and
known (`correction.payback`), so the refresh returns its own output and what makes up for it. No source is known.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepcache_ext.correction.payback import Payback
from deepcache_ext.features.per_row import PerRow, copy_of

Better = Callable[[Tensor, PerRow], "Tensor | None"]
"""Takes the input and the timesteps of a reuse; returns what it should have returned, None if that is not known."""


@dataclass(frozen=True, eq=False)
class _Reuse:
    """What a reuse was given and what it returned, all of shape (rows, ...), or one time for all rows."""

    x: Tensor
    times: PerRow
    output: Tensor


@dataclass(eq=False)
class _Evaluation:
    """One call of the past."""

    index: int
    error: Tensor | None
    """What it should have returned less what it did; None for 0."""
    reuse: _Reuse | None = None
    """Of a reuse that has not been put right."""


class Correction:
    """What is owed, by the rows of a call.

    `paybacks` are those of the whole run. Rows that an evaluation was not made for, or that come together with others
    than before, owe nothing any more: what they did is left as it is.
    """

    def __init__(self, paybacks: Sequence[Payback]) -> None:
        self.corrected = 0
        """Reuses that were put right, by calls, since whoever counts them took this to 0."""
        self.dropped = 0
        """Reuses that never will be, though evaluations came after them; likewise."""
        self._paybacks = paybacks
        self._memory = max((len(payback.earlier) for payback in paybacks), default=0)
        self._calls: dict[tuple[Hashable, ...], list[_Evaluation]] = {}

    @property
    def nbytes(self) -> int:
        """Memory that is held for what is owed, in bytes."""
        past = [one for of_call in self._calls.values() for one in of_call]
        reuses = [one.reuse for one in past if one.reuse is not None]
        tensors = [one.error for one in past] + [of for one in reuses for of in (one.x, one.times, one.output)]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))

    def clear(self) -> None:
        """Forget what is owed."""
        self.dropped += sum(one.reuse is not None for past in self._calls.values() for one in past)
        self._calls.clear()

    def owes(self, index: int, keys: tuple[Hashable, ...]) -> bool:
        """Tell whether evaluation `index` has to make up for anything in a call for rows with these `keys`."""
        past = self._calls.get(keys, [])
        return bool(past) and past[-1].index == index - 1 and any(one.reuse or one.error is not None for one in past)

    def of_reuse(self, index: int, keys: tuple[Hashable, ...], x: Tensor, times: PerRow, output: Tensor) -> Tensor:
        """Return the output to go on with of a reuse in evaluation `index`.

        `x` and `output` are of shape (rows, channels, height, width), `times` of shape (rows,) or one for all rows.
        """
        if index >= len(self._paybacks):
            return output
        past = self._past(index, keys)
        returned, error = self._paid(index, past, [0.0] * len(past), output)
        self._note(keys, [*past, _Evaluation(index, error, _Reuse(x.clone(), copy_of(times), returned.clone()))])
        return returned

    def leave(self) -> None:
        """Note a reuse that never will be put right."""
        self.dropped += 1

    def of_full(self, index: int, keys: tuple[Hashable, ...], output: Tensor, better: Better) -> Tensor:
        """Return the output to go on with of an evaluation in full; the reuses before it are put right by `better`."""
        if index >= len(self._paybacks):
            return output
        past = self._past(index, keys)
        first, deviation = _first_reuse(past), [0.0] * len(past)
        for place, one in enumerate(past[first:], first):
            missed, one.reuse = self._missed(one.reuse, better), None
            self.corrected += missed is not None
            self.dropped += missed is None
            one.error = one.error if missed is None else missed
            deviation = self._after(one.index, place, deviation)
        returned, error = self._paid(index, past, deviation, output)
        self._note(keys, [*past, _Evaluation(index, error)])
        return returned

    def _past(self, index: int, keys: tuple[Hashable, ...]) -> list[_Evaluation]:
        """Return the evaluations before `index` that count for a call for rows with these `keys`."""
        for left_out in [rows for rows, of in self._calls.items() if of[-1].index < index - 1]:
            self.dropped += sum(one.reuse is not None for one in self._calls.pop(left_out))
        past = self._calls.pop(keys, [])
        if past and past[-1].index == index - 1:
            return past
        self.dropped += sum(one.reuse is not None for one in past)
        return []

    def _note(self, keys: tuple[Hashable, ...], past: list[_Evaluation]) -> None:
        """Keep of the past what later evaluations may ask for."""
        wanted = past[max(0, _first_reuse(past) - self._memory) :]
        if wanted:
            self._calls[keys] = wanted

    def _missed(self, reuse: _Reuse | None, better: Better) -> Tensor | None:
        """Return what a reuse should have returned less what it did; None if that is not known."""
        should = None if reuse is None else better(reuse.x, reuse.times)
        return None if reuse is None or should is None else should - reuse.output

    def _after(self, index: int, place: int, deviation: Sequence[float]) -> list[float]:
        """Return the deviation of the input after evaluation `index`, at that place of the past.

        A deviation is given by its weights: of the error of each evaluation of the past.
        """
        payback = self._paybacks[index]
        return _plus([weight * payback.kept for weight in deviation], place, (payback.own, *payback.earlier))

    def _paid(
        self, index: int, past: Sequence[_Evaluation], deviation: Sequence[float], output: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return an output with what it pays back and what it answers to the deviation, and the error that it is then.

        What it answers is no part of the error: the sampler would have got it at the right input.
        """
        payback = self._paybacks[index]
        owed = _plus([weight * payback.of_deviation for weight in deviation], len(past) - 1, payback.of_errors)
        answered = [weight * payback.answered for weight in deviation]
        returned, paid = output, None
        for one, weight, answer in zip(past, owed, answered, strict=True):
            if one.error is None:
                continue
            if weight + answer:
                returned = torch.add(returned, one.error, alpha=weight + answer)
            if weight and self._memory:
                paid = one.error * -weight if paid is None else torch.sub(paid, one.error, alpha=weight)
        return returned.to(output.dtype), paid


def _first_reuse(past: Sequence[_Evaluation]) -> int:
    """Return the place of the first reuse that has not been put right, or how many evaluations there are."""
    return next((place for place, one in enumerate(past) if one.reuse is not None), len(past))


def _plus(found: list[float], place: int, weights: Sequence[float]) -> list[float]:
    """Add `weights` to those found, from that of a place back, and return them."""
    for back, weight in enumerate(weights[: place + 1]):
        found[place - back] += weight
    return found
