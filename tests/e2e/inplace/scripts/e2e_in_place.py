"""A test-only extension: samplers that reuse by themselves and put their own x and outputs right.

They stand behind the host's names and ask its own denoiser, whose outputs they leave unused where they reuse; DeepCache
is to be off. They guess features with its predictors, but know nothing of weights or paybacks: at each full evaluation
they go the steps since the first reuse again with better outputs.
"""

import sys
from functools import partial

import k_diffusion
import torch
from modules import script_callbacks, sd_samplers, sd_samplers_kdiffusion, sd_samplers_timesteps, shared

originals = {}
full = []
"""The evaluations in full."""
counted = {"put right": 0}


def ours(name):
    """Return DeepCache's module of that name, which guesses features and outputs."""
    return sys.modules[f"deepcache_ext.features.{name}"]


class InPlace:
    """Goes the steps of a sampler with one row each of cond and uncond, and puts right what went before.

    `step` takes x, the number of the step, all outputs so far, the noise levels and the noise of the step, and returns
    the next x. The denoiser takes `asked`, one for each evaluation, in the place of noise levels.
    """

    def __init__(self, step, share, model, x, levels, asked, draw_noise, extra_args):
        self.step, self.share, self.model, self.levels, self.asked = step, share, model, levels, asked
        self.draw_noise, self.given = draw_noise, extra_args
        self.unet, self.index, self.x = shared.sd_model.model.diffusion_model, 0, x
        self.predictor = ours("forecast").usual_predictor(1, noisy=draw_noise is not None, predicts_noise=True)
        self.noise_levels = ours("denoised").NoiseLevels(shared.sd_model.alphas_cumprod)
        self.kept = self.memory = None
        self.features = {}
        self.of_unet, self.inputs, self.outputs, self.noises = [], [], [], []

    def run(self):
        handles = [
            self.unet.register_forward_pre_hook(lambda _unet, args: self.of_unet.append((args[0], args[1]))),
            self.unet.out.register_forward_pre_hook(self.hear_feature),
            self.unet.register_forward_hook(self.hear_output),
        ]
        try:
            while self.index < len(self.asked):
                self.go_on()
        finally:
            for handle in handles:
                handle.remove()
        return self.x

    def go_on(self):
        self.inputs.append(self.x)
        of_host = self.model(self.x, self.asked[self.index] * self.x.new_ones(len(self.x)), **self.given)
        if self.index in full:
            self.outputs.append(of_host)
            self.put_right(max((number for number in full if number < self.index), default=self.index))
        else:
            self.outputs.append(self.guided(self.guess(), self.x, self.index))
        self.noises.append(self.draw_noise and self.draw_noise(self.x, self.index))
        self.x = self.step(self.x, self.index, self.outputs, self.levels, self.noises[-1])
        self.index += 1

    def hear_feature(self, _layer, args):
        if self.index in full:
            self.features[self.index] = args[0].clone()
            given = (args[0].clone(), *self.of_unet[-1])
            self.kept = self.predictor.after(self.kept, *given) if self.kept else self.predictor.first(*given)

    def hear_output(self, _unet, _args, output):
        if self.index in full:
            self.memory = ours("denoised").remembered(self.of_unet[-1][0], self.scales(), output, self.predictor.share)

    def scales(self):
        return self.noise_levels.scales(float(self.of_unet[-1][1][0]))

    def guess(self):
        """Return the U-Net's output on the feature that is expected, as DeepCache makes it."""
        x, times = self.of_unet[-1]
        output = self.unet.out.forward(self.predictor.expected(self.kept, x, times))
        return output if self.draw_noise is None else ours("denoised").drawn(output, x, self.scales(), self.memory)

    def put_right(self, before):
        """Go from the first reuse since `before` again with the outputs that it and the others should have had."""
        reuses = range(before + 1, self.index)
        if not reuses:
            return
        for number in reuses:
            output = self.unet.out.forward(self.between(number, before))
            self.outputs[number] = self.guided(output, self.inputs[number], number)
        again = self.inputs[before + 1]
        for number in reuses:
            again = self.step(again, number, self.outputs, self.levels, self.noises[number])
        self.outputs[self.index] = self.outputs[self.index] + self.answer() * (again - self.x)
        self.x = again
        counted["put right"] += len(reuses)

    def between(self, number, before):
        """Return a reuse's feature: on the line between those of the full evaluations around it, with noise a guess."""
        if self.draw_noise is not None:
            return self.predictor.between(self.kept, *self.of_unet[number])
        one, middle, other = (self.of_unet[which][1].view(-1, 1, 1, 1) for which in (before, number, self.index))
        first, last = self.features[before], self.features[self.index]
        return last + (first - last) * (middle - other) / (one - other)

    def answer(self):
        """Return how far the output follows its input to where that should have been."""
        level = self.levels[self.index]
        share = self.share(level)
        return (1 - share) / (1 - level).sqrt() if self.step is ddim else share

    def guided(self, noise, x, number):
        """Return what the denoiser makes of the U-Net's output."""
        cond, uncond = noise.chunk(2)
        guided = uncond + self.given["cond_scale"] * (cond - uncond)
        return guided if self.step is ddim else x - self.levels[number] * guided


def euler(x, index, outputs, sigmas, _noise):
    return x + (x - outputs[index]) / sigmas[index] * (sigmas[index + 1] - sigmas[index])


def euler_ancestral(x, index, outputs, sigmas, noise):
    now, following = sigmas[index], sigmas[index + 1]
    up = following * (1 - (following / now) ** 2).sqrt()
    x = x + (x - outputs[index]) / now * ((following**2 - up**2).sqrt() - now)
    return x + noise * up if following > 0 else x


def ddim(x, index, outputs, alphas, _noise):
    now, following = alphas[index], alphas[index + 1]
    picture = (x - (1 - now).sqrt() * outputs[index]) / now.sqrt()
    return following.sqrt() * picture + (1 - following).sqrt() * outputs[index]


def dpmpp_2m(x, index, outputs, sigmas, _noise):
    now, following = sigmas[index], sigmas[index + 1]
    denoised = outputs[index]
    if index and following > 0:
        h, before = (now / following).log(), (sigmas[index - 1] / now).log()
        denoised = denoised + (denoised - outputs[index - 1]) * h / (2 * before)
    return following / now * x + (1 - following / now) * denoised


def dpmpp_2m_sde(x, index, outputs, sigmas, noise):
    now, following = sigmas[index], sigmas[index + 1]
    if following == 0:
        return outputs[index]
    h = (now / following).log()
    denoised = outputs[index]
    if index:
        denoised = denoised + (denoised - outputs[index - 1]) * h / (2 * (sigmas[index - 1] / now).log())
    x = (following / now) ** 2 * x + (1 - (following / now) ** 2) * denoised
    return x + noise * following * (1 - (following / now) ** 2).sqrt()


def dpmpp_3m_sde(x, index, outputs, sigmas, noise):
    now, following = sigmas[index], sigmas[index + 1]
    if following == 0:
        return outputs[index]
    logs = -sigmas[: index + 2].log()
    h, kept = logs[index + 1] - logs[index], (following / now) ** 2
    x = kept * x + (1 - kept) * outputs[index]
    second = 1 - (1 - kept) / (2 * h)
    if index:
        slope = (outputs[index] - outputs[index - 1]) / (logs[index] - logs[index - 1])
        if index > 1:
            earlier = (outputs[index - 1] - outputs[index - 2]) / (logs[index - 1] - logs[index - 2])
            bend = (slope - earlier) / (logs[index] - logs[index - 2])
            slope = slope + bend * (logs[index] - logs[index - 1])
            x = x - (second / (2 * h) - 0.5) * bend * h * h
        x = x + second * slope * h
    return x + noise * following * (1 - kept).sqrt()


STEPS = {
    "Euler": euler,
    "Euler a": euler_ancestral,
    "DDIM": ddim,
    "DPM++ 2M": dpmpp_2m,
    "DPM++ 2M SDE": dpmpp_2m_sde,
    "DPM++ 3M SDE": dpmpp_3m_sde,
}
SHARES = {
    euler: lambda _sigma: 0.4,
    euler_ancestral: lambda _sigma: 1.25,
    ddim: lambda _alpha: 0.4,
    dpmpp_2m: lambda sigma: 0.6 * sigma / (1 + sigma),
    dpmpp_2m_sde: lambda _sigma: 1.25,
    dpmpp_3m_sde: lambda _sigma: 1.25,
}
"""How far the denoised picture of a full evaluation follows its input to where that should have been."""


def of_sigmas(step, share, model, x, sigmas, extra_args=None, noise_sampler=None, **_callback_and_disable):
    def draw_noise(x, index):
        if noise_sampler is not None:
            return noise_sampler(sigmas[index], sigmas[index + 1]) if sigmas[index + 1] > 0 else None
        return k_diffusion.sampling.torch.randn_like(x)

    noisy = draw_noise if step in (euler_ancestral, dpmpp_2m_sde, dpmpp_3m_sde) else None
    return InPlace(step, share, model, x, sigmas, sigmas[:-1], noisy, extra_args or {}).run()


def of_timesteps(step, share, model, x, timesteps, extra_args=None, **_callback_and_disable):
    alphas = shared.sd_model.alphas_cumprod[torch.flip(timesteps, [0])]
    return InPlace(step, share, model, x, alphas, timesteps[1:].flip(0), None, extra_args or {}).run()


def stand_in(name: str, steps: list[int], follows: bool = True):
    """Have such a sampler stand behind the host's name, for pictures with these evaluations in full; [] ends it.

    With `follows` off the denoised picture is taken not to follow its input.
    """
    full[:] = steps
    counted["put right"] = 0
    host_own, step = originals.setdefault(name, sd_samplers.all_samplers_map[name]), STEPS[name]
    share = SHARES[step] if follows else lambda _level: 0.0

    def constructor(model):
        if step is ddim:
            return sd_samplers_timesteps.CompVisSampler(partial(of_timesteps, step, share), model)
        return sd_samplers_kdiffusion.KDiffusionSampler(partial(of_sigmas, step, share), model)

    sd_samplers.all_samplers_map[name] = host_own._replace(constructor=constructor) if steps else host_own


def add_routes(_demo, app):
    app.add_api_route("/e2e/in-place", stand_in, methods=["POST"])
    app.add_api_route("/e2e/in-place", lambda: counted, methods=["GET"])


script_callbacks.on_app_started(add_routes)
