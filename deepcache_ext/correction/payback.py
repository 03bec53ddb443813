"""How much of what earlier outputs were off is made up for in each later one.

A sampler that is linear in the U-Net's outputs D goes x_{i+1} = a_i x_i + sum over j of b_ij D_j, with few j. Where
an output was off by e_j = (what it should have been) - (what was returned), the deviation of x goes the same way:
d_{i+1} = a_i d_i + sum over j of b_ij e_j. So x_{i+1} is right if evaluation i returns what it finds and beside that
(a_i d_i + sum over j < i of b_ij e_j) / b_ii, which is in e_i as its opposite.

What it finds it found at an input that was off by d_i, and the network answers to that: at the right input its denoised
picture would have been another by about a share of d_i. So much is returned as well (`correction.answer`); it is no
error.

No source is known; the correctors of UniPC (arXiv 2302.04867) do the like for errors of the solver.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepcache_ext.planning.sampler_run import Array, SamplerRun


@dataclass(frozen=True)
class Payback:
    """How the deviation goes on after one evaluation, and so what that returns beside what it finds."""

    kept: float
    """a_i, the part of the deviation of its input that is still there after it."""
    own: float
    """b_ii, the weight of its own output in the next input."""
    earlier: tuple[float, ...]
    """b_ij, the weights of earlier outputs in that, of the last one first."""
    answered: float = 0.0
    """What is added to its output for a deviation of 1: the sampler then gets what the right input would give."""

    @property
    def of_deviation(self) -> float:
        """The weight of the deviation in what is paid back."""
        return self.kept / self.own

    @property
    def of_errors(self) -> tuple[float, ...]:
        """The weights of earlier errors in that, of the last one first."""
        return tuple(weight / self.own for weight in self.earlier)


def paybacks(run: SamplerRun, counts: Array, answers: Array) -> tuple[Payback, ...]:
    """Return what each evaluation of a run pays back; () for a run whose kind does not (`SamplerKind.pays_back`).

    `counts`, of shape (evaluations,), are what an output of the U-Net counts in that of the denoiser in each of them,
    `answers`, likewise, what it is to answer to a deviation of 1.
    """
    kept, steps = run.kept(), run.steps()
    if kept is None or steps is None or not run.kind.pays_back or not counts.all():
        return ()
    memory, steps = run.looks_back, steps * counts
    return tuple(
        Payback(
            kept=float(kept[number]),
            own=float(steps[number, number]),
            earlier=tuple(float(steps[number, other]) for other in range(number - 1, max(-1, number - 1 - memory), -1)),
            answered=float(answers[number]),
        )
        for number in range(len(kept))
    )
