"""What of a sampler decides how its runs are cached."""

from __future__ import annotations

from dataclasses import dataclass

from deepcache_ext.planning.settings import WholeNumber, accepted

_STAGES = WholeNumber(1, 2)


@dataclass(frozen=True)
class SamplerKind:
    """The facts about a sampler, or about one run of it where its settings decide them.

    Raises ValueError for `stages` other than 1 and 2.
    """

    stages: int = 1
    """Evaluations in a step: 2 for Heun, DPM2, DPM++ 2S a and DPM++ SDE."""
    noisy: bool = False
    """Whether noise is added between evaluations: ancestral and SDE samplers, LCM, churn, DDIM with an eta."""
    extrapolates: bool = False
    """Whether a step goes on along the last outputs, so that errors in them grow: DPM++ 2M, its SDE variants, LMS."""
    jumps: bool = False
    """Whether the noise may rise again in mid-run, as it does with Restart."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", accepted("stages", _STAGES, self.stages))
