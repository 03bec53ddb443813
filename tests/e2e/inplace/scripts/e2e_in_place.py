"""A test-only extension: samplers that put their own x and outputs right at each full evaluation.

They stand behind the host's names and ask its own denoiser, on which DeepCache reuses without corrections. They know
nothing of weights or paybacks: they go the steps since the first reuse again with better outputs.
"""

from modules import script_callbacks, sd_samplers, sd_samplers_kdiffusion, shared

originals = {}
full = []
"""The evaluations in full."""
counted = {"put right": 0}


class InPlace:
    """Goes the steps of a sampler with one row each of cond and uncond, and puts right what went before.

    `step` takes x, the number of the step, all outputs so far and the noise levels, and returns the next x.
    """

    def __init__(self, step, model, x, sigmas, extra_args):
        self.step, self.model, self.sigmas, self.given = step, model, sigmas, extra_args
        self.x, self.unet = x, shared.sd_model.model.diffusion_model
        self.index, self.features, self.times, self.inputs, self.outputs = 0, {}, {}, [], []

    def run(self):
        handles = [
            self.unet.register_forward_pre_hook(lambda _unet, args: self.times.update({self.index: args[1]})),
            self.unet.out.register_forward_pre_hook(self.hear),
        ]
        try:
            while self.index < len(self.sigmas) - 1:
                self.go_on()
        finally:
            for handle in handles:
                handle.remove()
        return self.x

    def go_on(self):
        self.inputs.append(self.x)
        level = self.sigmas[self.index] * self.x.new_ones(len(self.x))
        self.outputs.append(self.model(self.x, level, **self.given))
        before = max((number for number in full if number < self.index), default=self.index)
        if self.index in self.features and before in self.features and before < self.index - 1:
            self.put_right(before)
        self.x = self.step(self.x, self.index, self.outputs, self.sigmas)
        self.index += 1

    def hear(self, _layer, args):
        if self.index in full:
            self.features.setdefault(self.index, args[0].clone())

    def put_right(self, before):
        """Go from the first reuse again with the outputs that it and the others should have had."""
        reuses = range(before + 1, self.index)
        for number in reuses:
            self.outputs[number] = self.better(number, before)
        again = self.inputs[before + 1]
        for number in reuses:
            self.inputs[number] = again
            again = self.step(again, number, self.outputs, self.sigmas)
        self.outputs[self.index] = self.outputs[self.index] + SHARES[self.step](self.sigmas[self.index]) * (
            again - self.x
        )
        self.inputs[self.index] = self.x = again
        counted["put right"] += len(reuses)

    def better(self, number, before):
        """Return the output with a feature on the line between those of the full evaluations around it."""
        one, middle, other = (self.times[which].view(-1, 1, 1, 1) for which in (before, number, self.index))
        first, last = self.features[before], self.features[self.index]
        noise = self.unet.out(last + (first - last) * (middle - other) / (one - other))
        x = self.inputs[number]
        cond, uncond = (x.repeat(2, 1, 1, 1) - self.sigmas[number] * noise).chunk(2)
        return uncond + self.given["cond_scale"] * (cond - uncond)


def euler(x, index, outputs, sigmas):
    return x + (x - outputs[index]) / sigmas[index] * (sigmas[index + 1] - sigmas[index])


def dpmpp_2m(x, index, outputs, sigmas):
    now, following = sigmas[index], sigmas[index + 1]
    denoised = outputs[index]
    if index and following > 0:
        h, before = (now / following).log(), (sigmas[index - 1] / now).log()
        denoised = denoised + (denoised - outputs[index - 1]) * h / (2 * before)
    return following / now * x + (1 - following / now) * denoised


STEPS = {"Euler": euler, "DPM++ 2M": dpmpp_2m}
SHARES = {euler: lambda _sigma: 0.4, dpmpp_2m: lambda sigma: 0.6 * sigma / (1 + sigma)}
"""How far an output in full follows its input to where that should have been."""


def sampler_of(step):
    def sample(model, x, sigmas, extra_args=None, **_callback_and_disable):
        return InPlace(step, model, x, sigmas, extra_args or {}).run()

    return sample


def stand_in(name: str, steps: list[int]):
    """Have such a sampler stand behind the host's name, for pictures with these evaluations in full; [] ends it."""
    full[:] = steps
    counted["put right"] = 0
    host_own = originals.setdefault(name, sd_samplers.all_samplers_map[name])
    function = sampler_of(STEPS[name])

    def constructor(model):
        return sd_samplers_kdiffusion.KDiffusionSampler(function, model)

    sd_samplers.all_samplers_map[name] = host_own._replace(constructor=constructor) if steps else host_own


def add_routes(_demo, app):
    app.add_api_route("/e2e/in-place", stand_in, methods=["POST"])
    app.add_api_route("/e2e/in-place", lambda: counted, methods=["GET"])


script_callbacks.on_app_started(add_routes)
