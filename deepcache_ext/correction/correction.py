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

Better = Callable[[Tensor, Tensor], "Tensor | None"]
"""Takes the input and the timesteps of a reuse; returns what it should have returned, None if that is not known."""


@dataclass(frozen=True, eq=False)
class _Reuse:
    """What a reuse was given, what it returned and what that counts for the sampler, all of shape (rows, ...)."""

    x: Tensor
    times: Tensor
    output: Tensor
    counts: Tensor


@dataclass(eq=False)
class _Evaluation:
    """One call of the past."""

    index: int
    error: Tensor | None
    """What it should have returned less what it did, as the sampler gets it, in single precision; None for 0."""
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
        self._memory = max(len(payback.earlier) for payback in paybacks)
        self._calls: dict[tuple[Hashable, ...], list[_Evaluation]] = {}

    @property
    def nbytes(self) -> int:
        """Memory that is held for what is owed, in bytes."""
        past = [one for of_call in self._calls.values() for one in of_call]
        reuses = [one.reuse for one in past if one.reuse is not None]
        tensors = [one.error for one in past] + [of for one in reuses for of in (one.x, one.times, one.output)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def clear(self) -> None:
        """Forget what is owed."""
        self.dropped += sum(one.reuse is not None for past in self._calls.values() for one in past)
        self._calls.clear()

    def owes(self, index: int, keys: tuple[Hashable, ...]) -> bool:
        """Tell whether evaluation `index` has to make up for anything in a call for rows with these `keys`."""
        past = self._calls.get(keys, [])
        return bool(past) and past[-1].index == index - 1 and any(one.reuse or one.error is not None for one in past)

    def of_reuse(
        self, index: int, keys: tuple[Hashable, ...], x: Tensor, times: Tensor, output: Tensor, counts: Tensor
    ) -> Tensor:
        """Return the output to go on with of a reuse in evaluation `index`.

        `x` and `output` are of shape (rows, channels, height, width), `times` of shape (rows,) and `counts`, what the
        output counts in what the sampler gets, of shape (rows, 1, 1, 1).
        """
        if index >= len(self._paybacks):
            return output
        past = self._past(index, keys)
        returned, error = self._paid(index, past, None, output, counts)
        reuse = _Reuse(x.clone(), times.clone(), returned, counts)
        self._note(keys, [*past, _Evaluation(index, error, reuse)])
        return returned

    def of_full(self, index: int, keys: tuple[Hashable, ...], output: Tensor, counts: Tensor, better: Better) -> Tensor:
        """Return the output to go on with of an evaluation in full; the reuses before it are put right by `better`."""
        if index >= len(self._paybacks):
            return output
        past, deviation = self._past(index, keys), None
        first = _first_reuse(past)
        for place, one in enumerate(past[first:], first):
            missed, one.reuse = self._missed(one.reuse, better), None
            self.corrected += missed is not None
            self.dropped += missed is None
            one.error = one.error if missed is None else missed
            deviation = self._after(one.index, past[: place + 1], deviation)
        returned, error = self._paid(index, past, deviation, output, counts)
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
        """Return what a reuse should have returned less what it did, as the sampler gets it; None if not known."""
        should = None if reuse is None else better(reuse.x, reuse.times)
        if reuse is None or should is None:
            return None
        return (should.float() - reuse.output.float()) * reuse.counts

    def _after(self, index: int, past: Sequence[_Evaluation], deviation: Tensor | None) -> Tensor | None:
        """Return the deviation of the input after evaluation `index`, the last of `past`, from that of its own."""
        payback = self._paybacks[index]
        kept = None if deviation is None else deviation * payback.kept
        return _plus(kept, past, (payback.own, *payback.earlier))

    def _paid(
        self, index: int, past: Sequence[_Evaluation], deviation: Tensor | None, output: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return an output with what it pays back, and the error that it is by that."""
        payback = self._paybacks[index]
        error = None if deviation is None else deviation * -payback.of_deviation
        error = _plus(error, past, [-weight for weight in payback.of_errors])
        if error is None:
            return output, None
        return torch.addcdiv(output.float(), error, counts, value=-1).to(output.dtype), error


def _first_reuse(past: Sequence[_Evaluation]) -> int:
    """Return the place of the first reuse that has not been put right, or how many evaluations there are."""
    return next((place for place, one in enumerate(past) if one.reuse is not None), len(past))


def _plus(found: Tensor | None, past: Sequence[_Evaluation], weights: Sequence[float]) -> Tensor | None:
    """Return `found` and the weighted errors of the past, from the last one back; None for 0."""
    for one, weight in zip(reversed(past), weights, strict=False):
        if one.error is not None and weight:
            found = one.error * weight if found is None else torch.add(found, one.error, alpha=weight)
    return found
