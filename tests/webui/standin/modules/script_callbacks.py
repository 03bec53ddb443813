"""The callbacks an extension registers, by kind."""

callbacks = {}


class CFGDenoiserParams:
    def __init__(
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None
    ):
        self.x = x
        self.sigma = sigma
        self.text_cond = text_cond
        self.denoiser = denoiser


def _register(kind):
    def on(callback, *, name=None):
        callbacks.setdefault(kind, []).append(callback)

    return on


on_cfg_denoiser = _register("cfg_denoiser")
on_script_unloaded = _register("script_unloaded")
on_before_ui = _register("before_ui")
on_app_started = _register("app_started")
