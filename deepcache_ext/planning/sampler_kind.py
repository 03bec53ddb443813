"""What of a sampler decides how its runs are cached."""

from __future__ import annotations

from dataclasses import dataclass

from deepcache_ext.planning.settings import Settings, WholeNumber, accepted

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
    pays_back: bool = False
    """Whether a later output can make up for what earlier ones were off: known of runs that were asked."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", accepted("stages", _STAGES, self.stages))

    def corrects(self, settings: Settings) -> bool:
        """Tell whether reuses by these settings are put right, which is done at depth 0 and on forecast features."""
        return self.pays_back and settings.correction == "on" and settings.forecast == "on" and settings.depth == 0

    def depth(self, settings: Settings) -> int:
        """Return the depth that runs of this kind have by these settings.

        It is at least 1 where nothing is forecast, and where noise is added, which blocks alone follow, unless what
        they miss is made up for.
        """
        follows = self.noisy and not self.corrects(settings)
        return max(1, settings.depth) if follows or settings.forecast == "off" else settings.depth
