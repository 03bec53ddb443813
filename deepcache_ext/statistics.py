"""What a pass has done, and why it cached less than planned."""

from __future__ import annotations

from dataclasses import dataclass

OTHERS = "the U-Net was called for tiles, windows or other pictures than the sampler's; computed in full"
SWITCHED = "prompts or the network changed in most evaluations that were to reuse; computed in full"
NOTHING_KEPT = "nothing could be kept of the U-Net's calls; computed in full"
NOTHING_FITTED = "no kept feature fitted a later call; computed in full"


@dataclass
class Statistics:
    """What a pass has done so far."""

    full: int = 0
    """Evaluations in which at least one U-Net call ran in full."""
    reused: int = 0
    """Evaluations in which every U-Net call reused."""
    calls_full: int = 0
    """U-Net calls that ran in full."""
    calls_reused: int = 0
    """U-Net calls that reused."""
    missed: int = 0
    """U-Net calls of an evaluation meant to reuse that ran in full, because no kept feature fitted."""
    kept: int = 0
    """U-Net calls whose features were kept."""
    switched: int = 0
    """Evaluations meant to reuse that ran in full, because rows or the network were new, or had been just before."""
    corrected: int = 0
    """U-Net calls that reused and of which a later one made up for what they were off."""
    uncorrected: int = 0
    """U-Net calls that reused and of which none will, though later ones do so for others."""
    listened: bool = False
    """Whether somebody had a hook on the layers after the blocks, or changed what they returned."""
    others: bool = False
    """Whether calls came that were not the host's own cut of its batch, after which all was computed in full."""
    error: str = ""
    """Why the pass stopped caching, if it did."""

    @property
    def reason(self) -> str:
        """Why less was cached than planned, as a sentence without its full stop; "" where nothing went amiss."""
        if self.error or self.others:
            return self.error or OTHERS
        if not self.kept:
            return NOTHING_KEPT if self.missed else ""
        if self.switched > self.reused:
            return SWITCHED
        return NOTHING_FITTED if self.missed and not self.reused else ""
