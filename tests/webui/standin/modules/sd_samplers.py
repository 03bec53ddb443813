"""The samplers by name."""

from modules.sd_samplers_common import SamplerData

_SECOND_ORDER = ("DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart")
_FIRST_ORDER = ("DPM++ 2M", "Euler a", "Euler", "LMS", "DPM fast", "DPM adaptive", "DDIM", "PLMS", "UniPC")

all_samplers = [
    *(SamplerData(name, None, [], {"second_order": True}) for name in _SECOND_ORDER),
    *(SamplerData(name, None, [], {}) for name in _FIRST_ORDER),
]
all_samplers_map = {data.name: data for data in all_samplers}
