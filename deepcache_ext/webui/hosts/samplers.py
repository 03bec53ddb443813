"""What the host tells of its samplers, and of one run of one: what kind it is, and how often it evaluates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from modules import sd_samplers, shared

from deepcache_ext.planning.sampler_kind import SamplerKind

AUTOMATIC = "Automatic"
"""The host's name for the sampler's own scheduler."""
_TIMESTEPS = {"DDIM": -1, "DDIM CFG++": -1, "PLMS": 0, "UniPC": 0}
"""Samplers that walk a list of timesteps, and by how much their evaluations differ from its length."""
_EXTRAPOLATE = {"DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "LMS", "DEIS", "IPNDM"}
"""Samplers whose steps go on along the last outputs. UniPC corrects itself and PLMS begins with low orders."""
_CHURNED = {"Euler", "Heun", "DPM2"}
"""Samplers to which the setting "sigma churn" adds noise."""
_STEPS_OF_ITS_OWN = {"Restart"}
"""Samplers that make other steps of the noise levels that they are given."""
_WITHOUT_LEVELS = {"DPM fast"}
"""Samplers that are told how many steps to make and no noise levels, which the scheduler would decide."""
_NEVER_RISE = {"k_diffusion.sampling", "modules.sd_samplers_timesteps_impl", "modules.sd_samplers_lcm"}
_NEVER_RISE |= {"k_diff.k_diffusion.sampling"}  # the same in reForge
"""The modules whose samplers only go down in noise."""
_Runs = tuple[str, int, bool, str]
"""Runs that evaluate as often as each other: their sampler, steps, whether from a picture, and scheduler."""


class Samplers:
    """The samplers of a host, by name.

    With `one_a_step` a sampler of which the host tells nothing is taken to evaluate once a step only if it is among
    these. Any other is silent: how often it evaluates is known from its last run of as many steps, if there was one
    (see `count`). `decide_themselves` are those that decide by what they get how often they evaluate: an error of ours
    has them evaluate more often.
    """

    def __init__(
        self, one_a_step: frozenset[str] | None = None, decide_themselves: frozenset[str] = frozenset({"DPM adaptive"})
    ) -> None:
        self.decide_themselves = decide_themselves
        self._one_a_step = one_a_step
        self._counted: dict[_Runs, int | None] = {}
        self._stages: dict[str, tuple[int, int]] = {}
        """Of silent samplers, by their run of the most steps: the steps and the stages of one."""

    @staticmethod
    def arguments_of(run: Callable[[], Any]) -> Mapping[str, Any]:
        """Return what a run's sampler is called with, out of the closure that is launched; nothing if it has none."""
        try:
            found = inspect.getclosurevars(run).nonlocals.get("extra_params_kwargs")
        except (TypeError, ValueError):  # no Python function, or a cell that is still empty
            return {}
        return found if isinstance(found, Mapping) else {}

    def kind(self, sampler: str, arguments: Mapping[str, Any] | None = None, function: Any = None) -> SamplerKind:
        """Return the kind of the named sampler, in a run with `arguments` of its `function`.

        Without them, it is that of a run with the host's settings.
        """
        config = sd_samplers.all_samplers_map.get(sampler)
        _, stages = self._stages.get(sampler, (0, 1 if config is None else int(config.total_steps(1))))
        jumps = callable(function) and getattr(function, "__module__", "") not in _NEVER_RISE
        noisy = _adds_noise(sampler, arguments or _usual_arguments(sampler), function)
        return SamplerKind(stages, noisy, sampler in _EXTRAPOLATE, jumps)

    def evaluations(
        self,
        sampler: str,
        steps: int,
        *,
        img2img: bool,
        arguments: Mapping[str, Any] | None = None,
        scheduler: str = "",
    ) -> int | None:
        """Return how often the named sampler evaluates the denoiser in so many steps; None if nobody knows.

        `steps` are those that the sampler is launched with, `img2img` says whether from a picture, as hires fix does
        too. A run's own `arguments` decide where it is given noise levels or timesteps; without any the name of the
        `scheduler` does.
        """
        config = sd_samplers.all_samplers_map.get(sampler)
        if config is None or sampler in self.decide_themselves:
            return None
        if not self.tells(sampler):
            return self._counted.get((sampler, steps, img2img, scheduler or AUTOMATIC))
        given = arguments or {}
        timesteps, sigmas = given.get("timesteps"), given.get("sigmas")
        if sampler in _TIMESTEPS and sigmas is None and not config.options.get("discard_next_to_last_sigma"):
            length = _timesteps(steps, img2img=img2img) if timesteps is None else len(timesteps)
            return max(1, length + _TIMESTEPS[sampler])
        stages = int(config.total_steps(1))
        if sigmas is not None and sampler in _STEPS_OF_ITS_OWN:
            return stages * (len(sigmas) - 1) - (stages == 2)
        if sigmas is None:
            if scheduler == "DDIM" and not img2img and sampler not in _WITHOUT_LEVELS:
                steps = _spaced(steps, first=1)
            ends_above_zero = scheduler == "KL Optimal" and sampler not in _STEPS_OF_ITS_OWN
            # the last step of a sampler with two stages goes to sigma 0, with one evaluation
            return stages * steps - (stages == 2 and not ends_above_zero)
        return sum(stages if sigma > 0 else 1 for sigma in sigmas.tolist()[1:])

    def tells(self, sampler: str) -> bool:
        """Tell whether the host says how often the named sampler evaluates, whatever the number of steps."""
        config = sd_samplers.all_samplers_map.get(sampler)
        if config is None or sampler in self.decide_themselves:
            return False
        return self._one_a_step is None or bool(config.options) or sampler in {*self._one_a_step, *_TIMESTEPS}

    def count(self, sampler: str, steps: int, *, img2img: bool, scheduler: str, made: int) -> None:
        """Note how many evaluations a run made that went to its end, for the next one like it of a silent sampler.

        Where two of these in a row made different numbers, the next has no plan.
        """
        if self.tells(sampler) or sampler in self.decide_themselves:
            return
        runs = sampler, steps, img2img, scheduler or AUTOMATIC
        self._counted[runs] = made if self._counted.get(runs) in {None, made} else None
        longest, _ = self._stages.get(sampler, (2, 1))
        if steps >= longest:
            self._stages[sampler] = steps, 2 if made in {2 * steps - 1, 2 * steps} else 1

    @staticmethod
    def img2img_steps(steps: int, denoising: float) -> int:
        """Return how many of `steps` img2img makes at a denoising strength."""
        if shared.opts.img2img_fix_steps:
            return steps
        return int(min(denoising, 0.999) * steps) + 1


def _timesteps(steps: int, *, img2img: bool) -> int:
    return steps - 1 if img2img else _spaced(steps + bool(shared.opts.always_discard_next_to_last_sigma))


def _spaced(steps: int, first: int = 0) -> int:
    """Return how many of 1000 timesteps, from `first` on, are 1000 // steps apart, as DDIM has them."""
    return len(range(first, 1000, max(1, 1000 // steps)))


def _adds_noise(sampler: str, arguments: Mapping[str, Any], function: Any) -> bool:
    if arguments.get("s_churn", 0) > 0:
        return True
    if "eta" in arguments:
        return bool(arguments["eta"] > 0)
    return _is_noisy_by_itself(sampler) or (callable(function) and "noise_sampler" in _parameters(function))


def _is_noisy_by_itself(sampler: str) -> bool:
    config = sd_samplers.all_samplers_map.get(sampler)
    told = config is not None and any(config.options.get(option) for option in ("uses_ensd", "brownian_noise"))
    return told or sampler == "LCM"


def _usual_arguments(sampler: str) -> dict[str, Any]:
    """Return what the host's settings will have a run of the sampler add noise by."""
    if sampler in _CHURNED:
        return {"s_churn": getattr(shared.opts, "s_churn", 0.0)}
    if sampler.startswith("DDIM"):
        return {"eta": getattr(shared.opts, "eta_ddim", 0.0)}
    if _is_noisy_by_itself(sampler) and sampler != "LCM":
        return {"eta": getattr(shared.opts, "eta_ancestral", 1.0)}
    return {}


def _parameters(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
