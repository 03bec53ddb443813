"""What a run of one of the host's samplers will probably be, by its name: for the plan that is shown before it is made.

What a run really does is asked of the sampler itself when it is launched (`dry_runs.py`). No host gives one before
that without a trace: making one takes hold of k-diffusion's random numbers, for a job that may be running too. So here
names have to do; what a sampler answered of which a name says nothing is remembered for the next run like it.
"""

from __future__ import annotations

import sys
from typing import Any

from modules import sd_samplers, shared

from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.sampler_run import SamplerRun

AUTOMATIC = "Automatic"
"""The host's name for the sampler's own scheduler."""
_TIMESTEPS = {"DDIM": -1, "DDIM CFG++": -1, "PLMS": 0, "UniPC": 0}
"""Samplers that walk a list of timesteps, and by how much their evaluations differ from its length."""
_EXTRAPOLATE = {"DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "LMS", "DEIS", "IPNDM"}
"""Samplers whose steps go on along the last outputs."""
_PAY_BACK = {"Euler", "Euler a", "DDIM", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"}
"""Samplers of which a later output can make up for what earlier ones were off (`SamplerRun.kind`)."""
_CHURNED = {"Euler", "Heun", "DPM2"}
"""Samplers to which the setting "sigma churn" adds noise."""
_STEPS_OF_ITS_OWN = {"Restart"}
"""Samplers that make other steps of the noise levels that they are given."""
_WITHOUT_LEVELS = {"DPM fast"}
"""Samplers that are told how many steps to make and no noise levels, which the scheduler would decide."""
_Runs = tuple[str, int, bool, str]
"""Runs that evaluate as often as each other: their sampler, steps, whether from a picture, and scheduler."""


class Samplers:
    """The samplers of a host, by name.

    With `one_a_step` a sampler of which the host tells nothing is taken to evaluate once a step only if it is among
    these; nobody knows of any other before it was asked. `decide_themselves` are those that decide by what they get how
    often they evaluate: an error of ours has them evaluate more often.
    """

    def __init__(
        self, one_a_step: frozenset[str] | None = None, decide_themselves: frozenset[str] = frozenset({"DPM adaptive"})
    ) -> None:
        self._decide_themselves = decide_themselves
        self._one_a_step = one_a_step
        self._runs: dict[_Runs, SamplerRun] = {}
        self._kinds: dict[str, SamplerKind] = {}

    def remember(self, run: SamplerRun, sampler: str, steps: int, *, img2img: bool, scheduler: str) -> None:
        """Note what the named sampler answered when it was launched with so many steps, for plans shown later."""
        self._runs[sampler, steps, img2img, scheduler or AUTOMATIC] = run
        self._kinds[sampler] = run.kind

    def kind(self, sampler: str) -> SamplerKind:
        """Return the kind of the named sampler with the host's settings; of a silent one, that of its last run."""
        if sampler in self._kinds and not self.tells(sampler):
            return self._kinds[sampler]
        config = sd_samplers.all_samplers_map.get(sampler)
        stages = 1 if config is None else int(config.total_steps(1))
        name = self.without_scheduler(sampler)
        return SamplerKind(stages, _adds_noise(sampler), name in _EXTRAPOLATE, pays_back=name in _PAY_BACK)

    @staticmethod
    def without_scheduler(sampler: str) -> str:
        """Return the name that tables have the named sampler under: Forge Classic's end with their own scheduler's."""
        config = sd_samplers.all_samplers_map.get(sampler)
        own = None if config is None else config.options.get("scheduler")
        name, _, scheduler = sampler.rpartition(" ")
        return name if name and scheduler.lower() == own else sampler

    def decides_itself(self, sampler: str) -> bool:
        """Tell whether the named sampler decides itself how often it evaluates."""
        known = not self._is_told(sampler) and any(
            run.decides_itself for (name, *_), run in self._runs.items() if name == sampler
        )
        return known or sampler in self._decide_themselves

    def evaluations(self, sampler: str, steps: int, *, img2img: bool, scheduler: str = "") -> int | None:
        """Return how often the named sampler will evaluate the denoiser in so many steps; None if nobody knows.

        `steps` are those that the sampler is launched with, `img2img` says whether from a picture, as hires fix does
        too.
        """
        if not self.tells(sampler):
            known = self._runs.get((sampler, steps, img2img, scheduler or AUTOMATIC))
            return None if known is None else known.evaluations
        config = sd_samplers.all_samplers_map[sampler]
        if sampler in _TIMESTEPS and not config.options.get("discard_next_to_last_sigma"):
            return max(1, _timesteps(steps, img2img=img2img) + _TIMESTEPS[sampler])
        stages = int(config.total_steps(1))
        if scheduler == "DDIM" and not img2img and sampler not in _WITHOUT_LEVELS:
            steps = _spaced(steps, first=1)
        ends_above_zero = scheduler == "KL Optimal" and sampler not in _STEPS_OF_ITS_OWN
        # the last step of a sampler with two stages goes to sigma 0, with one evaluation
        return stages * steps - (stages == 2 and not ends_above_zero)

    def tells(self, sampler: str) -> bool:
        """Tell whether the host says how often the named sampler evaluates, whatever the number of steps."""
        return self._is_told(sampler) and sampler not in self._decide_themselves

    def _is_told(self, sampler: str) -> bool:
        """Tell whether the host says anything about the named sampler."""
        config = sd_samplers.all_samplers_map.get(sampler)
        if config is None:
            return False
        return self._one_a_step is None or bool(config.options) or sampler in {*self._one_a_step, *_TIMESTEPS}

    @staticmethod
    def img2img_steps(steps: int, denoising: float) -> int:
        """Return how many of `steps` img2img makes at a denoising strength."""
        if shared.opts.img2img_fix_steps:
            return steps
        return int(min(denoising, 0.999) * steps) + 1


def scheduler_of(p: Any, *, hires: bool) -> str:
    """Return the label of the scheduler that a pass of the host's processing object `p` is asked for; "" if of none.

    The pass of hires fix has the first pass's unless it is asked for one of its own. A request may have a scheduler's
    internal name, such as "karras", in the place of its label; one that the host does not know is returned as it is.
    """
    own = getattr(p, "hr_scheduler", None) if hires else None
    name = str(own or getattr(p, "scheduler", None) or "")
    known = getattr(sys.modules.get("modules.sd_schedulers"), "schedulers_map", {})
    return str(getattr(known.get(name), "label", name))


def _timesteps(steps: int, *, img2img: bool) -> int:
    return steps - 1 if img2img else _spaced(steps + bool(shared.opts.always_discard_next_to_last_sigma))


def _spaced(steps: int, first: int = 0) -> int:
    """Return how many of 1000 timesteps, from `first` on, are 1000 // steps apart, as DDIM has them."""
    return len(range(first, 1000, max(1, 1000 // steps)))


def _adds_noise(sampler: str) -> bool:
    """Tell whether the host's settings will have a run of the named sampler add noise."""
    usual = _usual_arguments(sampler)
    if "eta" in usual or "s_churn" in usual:
        return bool(usual.get("eta", 0) > 0 or usual.get("s_churn", 0) > 0)
    return _is_noisy_by_itself(sampler)


def _is_noisy_by_itself(sampler: str) -> bool:
    config = sd_samplers.all_samplers_map.get(sampler)
    told = config is not None and any(config.options.get(option) for option in ("uses_ensd", "brownian_noise"))
    return told or sampler == "LCM"


def _usual_arguments(sampler: str) -> dict[str, Any]:
    """Return what the host's settings will have a run of the sampler add noise by."""
    if Samplers.without_scheduler(sampler) in _CHURNED:
        return {"s_churn": getattr(shared.opts, "s_churn", 0.0)}
    if sampler.startswith("DDIM"):
        return {"eta": getattr(shared.opts, "eta_ddim", 0.0)}
    if _is_noisy_by_itself(sampler) and sampler != "LCM":
        return {"eta": getattr(shared.opts, "eta_ancestral", 1.0)}
    return {}
