"""DeepCache for ldm and sgm U-Nets: keep the deep features of one evaluation and reuse them in the next."""

from deepcache_ext.features.denoised import NoiseLevels
from deepcache_ext.planning.sampler_kind import SamplerKind
from deepcache_ext.planning.schedule import Action, Schedule
from deepcache_ext.planning.settings import Settings
from deepcache_ext.sampling import SamplingPass
from deepcache_ext.statistics import Statistics

__all__ = ["Action", "NoiseLevels", "SamplerKind", "SamplingPass", "Schedule", "Settings", "Statistics"]
__version__ = "0.1.0"
