"""What passes and jobs did, as it is told, and the sentence below a picture that was made without caching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from deepcache_ext.sentence import counted
from deepcache_ext.statistics import Statistics

PassKind = Literal["txt2img", "img2img", "hires"]

NOT_USED = "DeepCache not used"
"""The infotext key of the reason why a picture was made without caching."""

LEAST_TOLD = 1.05
"""The least speed-up that is told: less is within what a clock is off."""
NO_EVALUATION = "the sampler made no evaluation"


@dataclass
class PassReport:
    """What one pass did."""

    kind: PassKind
    sampler: str
    inner: bool = False
    """Whether another extension made it."""
    name: str = field(init=False)
    """Its kind, as it is told, with "inner " before it if it is one."""
    planned: int | None = None
    """Evaluations that the sampler was expected to make; None if nobody knows."""
    plan: str = ""
    """Which of them were to be full, as the setting `steps` takes it; "" where nothing was reused."""
    in_full: str = ""
    """Which were made in full, in the same way."""
    depth: int | None = None
    """That in force, which may be another than asked for; None where nothing was to be cached."""
    statistics: Statistics = field(default_factory=Statistics)
    sampling_seconds: float = 0.0
    """Of the sampler's whole run."""
    unet_seconds: float = 0.0
    """Of the U-Net's calls; 0 on a device that does not tell when it has done them."""
    speed_up: float = 1.0
    """Of the sampler's whole run, over one in which each call that reused took as long as a full one of its size.

    1 where it is none or can't be told: on such a device, without two full calls to compare with, and where the sampler
    made more evaluations than planned or decides itself how many it makes, which without the cache may be fewer.
    """
    cost: float = 0.0
    """That of the evaluations made, in full ones; 0 where nothing was cached."""
    reason: str = ""
    """Why nothing was cached, why caching ended early, why more evaluations were full than planned, or why what some
    reuses were off is not made up for."""

    def __post_init__(self) -> None:
        self.name = f"inner {self.kind}" if self.inner else self.kind

    def __str__(self) -> str:
        s = self.statistics
        if not s.full + s.reused:
            return f"{self.name}: not cached ({self.reason})"
        counts = f"{self.name}: {s.full} full and {s.reused} reused evaluations"
        return counts + f" in {self.took}" + (f" ({self.reason})" if self.reason else "")

    @property
    def took(self) -> str:
        """How long sampling took, and how much faster it was where that can be told."""
        faster = f", {self.speed_up:.2f}x as fast" if self.speed_up >= LEAST_TOLD else ""
        return f"{self.sampling_seconds:.1f} s{faster}"


@dataclass
class JobReport:
    """What one job did, its inner jobs included."""

    passes: list[PassReport] = field(default_factory=list)
    reason: str = ""
    """Why nothing of the job was cached."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.passes)) or f"not used: {self.reason or 'nothing was sampled'}"


def more_in_full(more: int, done: Statistics) -> str:
    """Return why `more` evaluations of a pass were made in full than its plan has; "" if none were."""
    if more <= 0:
        return ""
    if done.switched:
        why = "as prompts, unconds or the network changed there"
    elif done.missed:
        why = "as what was kept did not fit there"
    else:
        why = "as the noise rose or a guidance began there"
    return f"{counted(more, 'evaluation')} more than planned made in full, {why}"


def left_uncorrected(done: Statistics) -> str:
    """Return why some of the calls of a pass that reused are not made up for; "" if all are that can be."""
    if not done.uncorrected:
        return ""
    if done.listened:
        why = "as another extension changes the U-Net's output or has a hook on its output layer"
    else:
        why = "as prompts, unconds or the network changed before the next full evaluation"
    return f"{counted(done.uncorrected, 'call')} that reused had no correction, {why}"


def explain(p: Any, sentence: str) -> None:
    """Say below the pictures of the host's processing object `p`, and in their infotext, why they are uncached."""
    p.comment(f"{NOT_USED}: {sentence}.")
    p.extra_generation_params[NOT_USED] = sentence
