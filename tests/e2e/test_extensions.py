"""With other extensions: EXTENSIONS_DIR names a folder of checkouts of them, each by its repository's name.

WEBUI_PYTHON must be able to import the packages that they need.
"""

import functools
from pathlib import Path

import numpy as np
import pytest

from deepcache_ext.statistics import OTHERS
from tests.e2e.hosts import folder_named_by
from tests.e2e.pictures import HIRES, Maker, picture_of, pixels, psnr, same
from tests.e2e.server import EXTENSIONS, parts_of, serving

pytestmark = pytest.mark.usefixtures("a1111")
SAG = "Self Attention Guidance"
THRESHOLDING = "Dynamic Thresholding (CFG Scale Fix)"
REPOSITORIES = {
    "FreeU": "sd-webui-freeu",
    SAG: "sd_webui_SAG",
    "Incantations": "sd-webui-incantations",
    "Tiled Diffusion": "multidiffusion-upscaler-for-automatic1111",
    "DemoFusion": "multidiffusion-upscaler-for-automatic1111",
    THRESHOLDING: "sd-dynamic-thresholding",
}
"""Where a script comes from, by the title that the API knows it by."""
NARROW = [Path(__file__).parent / "narrow/scripts"]
ON = {"interval": 3, "depth": 2}
TEN = {"steps": 10}
SLACK = 3.0
"""How many dB the picture with an extension may be less close than the plain one."""
SHARE = 0.5
"""How much of the effect that an extension has on uncached pictures it has at least on cached ones."""


@pytest.fixture(scope="module")
def folder():
    return folder_named_by("EXTENSIONS_DIR", "folder of other extensions")


@pytest.fixture(scope="module")
def maker(webui, folder, tmp_path_factory):
    others = {name: parts_of(folder / name) for name in REPOSITORIES.values() if (folder / name).is_dir()}
    extensions = EXTENSIONS | {"e2e-narrow": NARROW} | others
    with serving(webui, tmp_path_factory.mktemp("extensions"), extensions=extensions) as running:
        maker = Maker(running)
        maker.make(steps=1)
        running.post("/e2e/narrow-freeu")
        yield maker


@pytest.fixture(scope="module")
def without(maker):
    """Return a function from a request's name to what it gives with the other extensions off; see `both`."""
    return functools.cache(lambda name: both(maker, TEN | REQUESTS[name]))


def both(maker, request):
    """Return the uncached picture, the cached one and the statistics of its passes."""
    uncached, cached = maker.make(**request), maker.make(cache=ON, **request)
    return uncached, cached, [done["statistics"] for done in maker.last_run()["passes"]]


@pytest.fixture
def switched_on(folder):
    """Return what of a request switches on some scripts, given their arguments by title."""

    def asked(scripts):
        missing = {REPOSITORIES[title] for title in scripts if not (folder / REPOSITORIES[title]).is_dir()}
        if missing:
            pytest.skip(f"EXTENSIONS_DIR has no {', '.join(missing)}")
        return {"alwayson_scripts": {title: {"args": arguments} for title, arguments in scripts.items()}}

    return asked


def free_u(**options):
    stages = [
        {"backbone_factor": 1.4, "skip_factor": 0.6},
        {"backbone_factor": 1.6, "skip_factor": 0.4},
        {"backbone_factor": 1.4, "skip_factor": 0.7},
    ]
    return {"FreeU": [{"stage_infos": stages} | options]}


def self_attention(threshold=1.0):
    return {SAG: [True, 0.75, threshold]}


def incantations(*, segmented=False, perturbed=(), schedule=(), zero=()):
    smoothed, s_cfg = [False, 11, 0, 150], [segmented, 1, 0.8, 3, 0, 0, 150, 4]
    perturbed = perturbed or [False, 0, 0, 150]
    schedule = schedule or [False, "Constant", 0, 100, False]
    return {"Incantations": [*smoothed, *s_cfg, *perturbed, *schedule, *zero]}


def s_cfg():
    return incantations(segmented=True)


def perturbed_attention(first_step=0, scale=20):
    return incantations(perturbed=[True, scale, first_step, 150])


def tiled(method, *, batch=4, invert=False, regions=()):
    canvas, tiles, upscaler = [False, True, 1024, 1024], [8, 8, 4, batch], ["None", 1]
    inversion, control = [invert, 10, 1, 1, 64, False], [bool(regions), True, False]
    boxes = [value for region in regions for value in region]
    return {"Tiled Diffusion": [True, method, *canvas, *tiles, *upscaler, *inversion, *control, *boxes]}


def demofusion():
    """Return what switches DemoFusion on, whose tiles jitter."""
    inversion, scales = [False, 10, 1, 1, 64, False], [3, 1, 1, True, 0.85]
    return {"DemoFusion": [True, "DemoFusion", False, 16, 8, 4, 2, *inversion, False, *scales]}


def region(x, y, prompt, blend):
    return [True, x, y, 0.5, 0.5, prompt, "", blend, 0.2, 1]


def thresholding(mode="Constant"):
    return {THRESHOLDING: [True, 30, 100, mode, 1, "Constant", 1, 4, True, "MEAN", "STD"]}


LONG = ", ".join(f"a {adjective} house" for adjective in ("red", "green", "blue", "tall", "small", "old", "new") * 5)
REQUESTS = {
    "plain": {},
    "split calls": {"prompt": LONG},
    "batch of 2": {"batch_size": 2},
    "img2img": {"path": "img2img", "init_images": [picture_of()], "denoising_strength": 1},
    "hires fix": HIRES | {"hr_second_pass_steps": 10},
    "Heun": {"sampler_name": "Heun"},
}
REGIONS = [region(0, 0, "a tree", "Background"), region(0.4, 0.3, "the moon", "Foreground")]
MULTI, MIXTURE = "MultiDiffusion", "Mixture of Diffusers"
CASES = {
    "FreeU version 1": (free_u(), "plain"),
    "FreeU version 2": (free_u(version="Version 2"), "plain"),
    "FreeU until the third step": (free_u(stop_ratio=0.2), "plain"),
    "FreeU in split calls": (free_u(), "split calls"),
    "FreeU with hires fix": (free_u(), "hires fix"),
    "self-attention guidance": (self_attention(), "plain"),
    "self-attention guidance everywhere": (self_attention(threshold=0), "plain"),
    "self-attention guidance of a batch": (self_attention(), "batch of 2"),
    "self-attention guidance in split calls": (self_attention(), "split calls"),
    "perturbed-attention guidance": (perturbed_attention(), "plain"),
    "perturbed-attention guidance of a batch": (perturbed_attention(), "batch of 2"),
    "perturbed-attention guidance in split calls": (perturbed_attention(), "split calls"),
    "S-CFG": (s_cfg(), "plain"),
    "S-CFG in split calls": (s_cfg(), "split calls"),
    "T2I-Zero": (incantations(zero=[True, False, 2, 0.5, 0.5, 0.5, "", 0, 25, 0]), "plain"),
    "MultiDiffusion": (tiled(MULTI, batch=2), "plain"),
    "MultiDiffusion in split calls": (tiled(MULTI), "split calls"),
    "MultiDiffusion of regions": (tiled(MULTI, regions=REGIONS), "plain"),
    "Mixture of Diffusers": (tiled(MIXTURE, batch=2), "plain"),
    "Mixture of Diffusers of regions": (tiled(MIXTURE, regions=REGIONS), "plain"),
    "Mixture of Diffusers with noise inversion": (tiled(MIXTURE, invert=True), "img2img"),
    "dynamic thresholding": (thresholding(), "plain"),
    "dynamic thresholding of two stages": (thresholding("Half Cosine Down"), "Heun"),
    "three at once": (free_u() | tiled(MULTI) | thresholding(), "plain"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_extensions_effect_is_all_there(maker, switched_on, without, case):
    scripts, name = CASES[case]
    request = TEN | REQUESTS[name] | switched_on(scripts)
    uncached, cached, passes = both(maker, request)
    if "Tiled Diffusion" in scripts:
        assert_made_in_full(maker, uncached, cached)
        return
    plain, plain_cached, plain_passes = without(name)
    found, usual = psnr(cached, uncached), psnr(plain_cached, plain)
    effect, kept = difference(uncached, plain), difference(cached, plain_cached)
    share = (effect @ kept) / (effect @ effect)
    print(f"{case}: {found:.1f} dB, {usual:.1f} without; effect {psnr(uncached, plain):.1f} dB, kept {share:.2f} of it")
    assert evaluations(passes) == evaluations(plain_passes)
    assert found > usual - SLACK
    assert share > SHARE
    assert same(maker.make(cache=ON, **request), cached)


def assert_made_in_full(maker, uncached, cached):
    """Tiles are no cut of the sampler's batch, and nothing tells those that stay from those that shift."""
    *_, last = maker.last_run()["passes"]
    assert (last["statistics"]["reused"], last["reason"]) == (0, OTHERS)
    assert same(uncached, cached)


def difference(one, other):
    pairs = zip(one["images"], other["images"], strict=True)
    return np.concatenate([pixels(a) - pixels(b) for a, b in pairs]).ravel().astype(np.float64)


def evaluations(passes):
    return [(done["full"], done["reused"], done["missed"], done["error"]) for done in passes]


def test_guidance_that_begins_in_mid_run(maker, switched_on):
    """Its first call finds no feature, so it is made in full; the next evaluation refreshes every row."""
    begins = TEN | switched_on(perturbed_attention(first_step=1, scale=3))
    cache = {"interval": 6, "depth": 2}
    found = psnr(maker.make(cache=cache, **begins), maker.make(**begins))
    (done,) = maker.last_run()["passes"]
    usual = psnr(maker.make(cache=cache, **TEN), maker.make(**TEN))
    print(f"{found:.1f} dB, {usual:.1f} without")
    assert evaluations([done["statistics"]]) == [(4, 6, 1, "")]
    assert found > usual - SLACK


def test_the_passes_of_demofusion(maker, switched_on, without):
    request = TEN | switched_on(demofusion())
    *replies, passes = both(maker, request)
    uncached, cached = ({"images": reply["images"][-1:]} for reply in replies)
    found, usual = psnr(cached, uncached), psnr(*without("plain")[:2])
    print(f"{found:.1f} dB, {usual:.1f} without")
    assert evaluations(passes[:1]) == [(4, 6, 0, "")]
    *_, last = maker.last_run()["passes"]
    assert (last["statistics"]["reused"], last["reason"]) == (0, OTHERS)
    assert found > usual - SLACK
