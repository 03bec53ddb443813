"""Requests for pictures, and looking at what came."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = 128
STEPS = 8
KINDS = {
    "SD3Inferencer": "SD3",
    "aesthetic_score": "SDXL refiner",
    ".VScaling": "SDXL v-prediction",
    "sgm.": "SDXL",
    "FrozenOpenCLIPEmbedder": "SD2",
    "cond_stage_key: edit": "edit",
    "LatentInpaintDiffusion": "inpainting",
}
"""What only the configuration of a kind of checkpoint says, the first that fits; SD1's says none of them."""
EVERY_THIRD = {"interval": 3, "depth": 1}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
HIRES |= {"hr_cfg": 5, "hr_additional_modules": ["Use same choices"]}  # Forge asks for these


class Maker:
    """Makes pictures on a server, each with the model it asks for."""

    def __init__(self, server):
        self.server = server
        self._models = [model["model_name"] for model in server.get("/sdapi/v1/sd-models")]
        self._options = set(server.get("/sdapi/v1/options"))
        self._kinds = {}

    def model(self, kind, *, but=""):
        """Return the name of a checkpoint of the wanted kind, "SD1" or one of KINDS; skips where the WebUI has none."""
        fitting = [name for name in self._models if name != but and "full" not in name and self._kind(name) == kind]
        if not fitting:
            pytest.skip(f"the WebUI has no {'other ' if but else ''}{kind} checkpoint")
        return min(fitting)

    def unknown(self, request):
        """Return which options a request sets that the WebUI does not have."""
        return request.get("override_settings", {}).keys() - self._options

    def has(self, kind):
        return any(self._kind(name) == kind for name in self._models)

    def make(self, path="txt2img", cache=None, model="", **request):
        """Return the reply, with `info` read; `cache` is the object of settings or a list of positional values."""
        model = model or self.model("SD1")
        body = {"prompt": "a house by the sea", "seed": 7, "steps": STEPS, "width": SIZE, "height": SIZE}
        body |= {"sampler_name": "Euler", "cfg_scale": 5, "override_settings": {"sd_model_checkpoint": model}}
        body |= request
        if unknown := self.unknown(body):
            pytest.skip(f"the WebUI has no option {', '.join(sorted(unknown))}")
        if cache is not None:
            arguments = cache if isinstance(cache, list) else [{"enabled": True} | cache]
            body["alwayson_scripts"] = {"DeepCache": {"args": arguments}} | body.get("alwayson_scripts", {})
        reply = self.server.post(f"/sdapi/v1/{path}", body)
        reply["info"] = json.loads(reply["info"])
        assert reply["info"]["sd_model_name"] in {model, None}  # None if a script sampled copies of the job only
        return reply

    def repeat(self, infotext):
        """Return the reply for what the infotext says; the host leaves its checkpoint out, so it is named."""
        model = {"sd_model_checkpoint": self.model("SD1")}
        body = {"infotext": infotext, "override_settings": model}
        status, answer = self.server.request("/sdapi/v1/txt2img", body)
        if "isinstance() argument 2" in str(answer):
            pytest.skip("Forge's API fails at any infotext")
        assert status == 200, answer
        return answer

    def last_run(self):
        return self.server.get("/deepcache/v1/last-run")

    def counts(self):
        """Return the last job's passes: name, full and reused evaluations."""
        return [
            (done["name"], done["statistics"]["full"], done["statistics"]["reused"])
            for done in self.last_run()["passes"]
        ]

    def state(self):
        return self.server.get("/e2e/state")

    def _kind(self, name):
        """Return the kind of a checkpoint, from the configuration beside it or, if there is none, from its name."""
        if name not in self._kinds:
            config = next(m["config"] for m in self.server.get("/sdapi/v1/sd-models") if m["model_name"] == name)
            if config:
                text, kinds = Path(config).read_text(encoding="utf-8"), KINDS
            else:
                text, kinds = name.lower(), {"sd3": "SD3", "vpred": "SDXL v-prediction", "xl": "SDXL"}
            self._kinds[name] = next((kind for word, kind in kinds.items() if word in text), "SD1")
        return self._kinds[name]


def picture_of(size=SIZE):
    """Return a gradient as base64 PNG, for img2img."""
    x = np.linspace(0, 255, size, dtype=np.uint8)
    pixels = np.stack([np.tile(x, (size, 1)), np.tile(x[:, None], (1, size)), np.full((size, size), 90, np.uint8)], -1)
    return encoded(Image.fromarray(pixels))


def mask_of(size=SIZE):
    mask = Image.new("L", (size, size), 0)
    mask.paste(255, (size // 4, size // 4, size * 3 // 4, size * 3 // 4))
    return encoded(mask)


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"), dtype=np.int32)


def same(one, other):
    """Tell whether two replies have the same pictures, pixel by pixel."""
    return all(np.array_equal(pixels(a), pixels(b)) for a, b in zip(one["images"], other["images"], strict=True))


def plain_requests(maker):
    """Return the arguments of `Maker.make` for what is made with and without the extension, by name."""
    sd1 = maker.model("SD1")
    found = {
        "txt2img": {"model": sd1},
        "img2img": {"model": sd1, "path": "img2img", "init_images": [picture_of()], "denoising_strength": 0.8},
        "hires fix": {"model": sd1} | HIRES,
    }
    if maker.has("SDXL"):
        found["SDXL"] = {"model": maker.model("SDXL")}
    return found


def psnr(one, other):
    """Return how close the pictures of two replies are in dB; control maps, which come after them, are left out."""
    pairs = [(pixels(a), pixels(b)) for a, b in zip(_pictures(one), _pictures(other), strict=False)]
    error = np.mean([(a - b) ** 2 for a, b in pairs if a.shape == b.shape == pairs[0][0].shape])
    return 10 * np.log10(255**2 / max(error, 1e-6))


def _pictures(reply):
    info = reply.get("info")
    return reply["images"][: info["index_of_first_image"] + len(info["all_seeds"])] if info else reply["images"]


def closeness(maker, against=None, **request):
    """Return how close a cached picture is to the uncached one, or to that of the request `against`, and its passes."""
    cache, ten = {"interval": 3, "depth": 2}, {"steps": 10}
    uncached = _make(maker, ten | (request if against is None else against))
    cached = _make(maker, ten | request, cache)
    return psnr(cached, uncached), [done["statistics"] for done in maker.last_run()["passes"]]


def _make(maker, request, cache=None):
    options = request.get("override_settings", {})
    options = options | {"sd_model_checkpoint": request.get("model") or maker.model("SD1")}
    return maker.make(cache=cache, **(request | {"override_settings": options}))
