"""The samplers by name."""

from modules.sd_samplers_common import SamplerData

_SECOND_ORDER = ("DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart")
_FIRST_ORDER = ("DPM++ 2M", "Euler a", "Euler", "LMS", "DPM fast", "DPM adaptive", "DDIM", "PLMS", "UniPC", "LCM")
_OPTIONS = {
    **{name: {"uses_ensd": True} for name in ("Euler a", "DPM2 a", "DPM++ 2S a")},
    "DPM++ SDE": {"brownian_noise": True},
}

all_samplers = [
    *(SamplerData(name, None, [], {"second_order": True, **_OPTIONS.get(name, {})}) for name in _SECOND_ORDER),
    *(SamplerData(name, None, [], _OPTIONS.get(name, {})) for name in _FIRST_ORDER),
]
all_samplers_map = {data.name: data for data in all_samplers}
