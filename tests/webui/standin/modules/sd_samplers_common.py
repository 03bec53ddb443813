"""What every sampler has in common."""

from collections import namedtuple

from modules import shared


class SamplerData(namedtuple("SamplerData", ["name", "constructor", "aliases", "options"])):
    def total_steps(self, steps):
        return steps * 2 if self.options.get("second_order", False) else steps


class InterruptedException(BaseException):
    pass


class Sampler:
    def __init__(self, funcname):
        self.func = funcname
        self.config = None
        self.last_latent = None
        self.p = None
        self.model_wrap_cfg = None

    def launch_sampling(self, steps, func):
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        try:
            return func()
        except InterruptedException:
            return self.last_latent


def setup_img2img_steps(p, steps=None):
    if shared.opts.img2img_fix_steps or steps is not None:
        requested = steps or p.steps
        return int(requested / min(p.denoising_strength, 0.999)) if p.denoising_strength > 0 else 0, requested - 1
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)
