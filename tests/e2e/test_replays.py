"""Other extensions: a reuse makes what the same decisions make with all blocks run.

The replay runs the blocks that a reuse skips and then goes on with the same kept feature. So the pictures differ only
if somebody misses a block, such as an extension that counts the U-Net's attentions or collects their maps.
EXTENSIONS_DIR names a folder of checkouts, each by its repository's name.
"""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deepcache_ext.statistics import OTHERS
from tests.e2e import replaying
from tests.e2e.hosts import folder_named_by
from tests.e2e.pictures import Maker, pixels, same
from tests.e2e.server import EXTENSIONS, parts_of, serving

pytestmark = pytest.mark.usefixtures("a1111")
REPOSITORIES = {
    "NegPiP": "sd-webui-negpip",
    "AnimateDiff": "sd-webui-animatediff",
    "Kohya Hires.fix": "sd-webui-kohya-hiresfix",
    "Regional Prompter": "sd-webui-regional-prompter",
    "Daam script": "stable-diffusion-webui-daam",
}
TOGETHER = [["NegPiP", "AnimateDiff", "Kohya Hires.fix"], ["Regional Prompter"], ["Daam script"]]
"""Which of them are on one server: Regional Prompter takes the host's option of split calls back, also while off."""
HERE = Path(__file__).parent
MOTION_MODULE = "tiny.safetensors"
ON = {"interval": 3, "depth": 2}
TEN = {"steps": 10}
LONG = ", ".join(f"a {adjective} house" for adjective in ("red", "green", "blue", "tall", "small", "old", "new") * 5)


@contextmanager
def running(titles, webui, tmp_path_factory):
    """Run a WebUI with the extensions of these titles, as far as there are checkouts of them."""
    folder = folder_named_by("EXTENSIONS_DIR", "folder of other extensions")
    others = {REPOSITORIES[title]: folder / REPOSITORIES[title] for title in titles}
    found = {name: parts_of(checkout) for name, checkout in others.items() if checkout.is_dir()}
    helpers = replaying.HELPER | {f"e2e-{name}": [HERE / name / "scripts"] for name in ("narrow", "heatmaps")}
    where = tmp_path_factory.mktemp("replays")
    (where / "ui-config.json").write_text("{}")  # NegPiP reads it before the host has made it
    with serving(webui, where, extensions=EXTENSIONS | helpers | found) as server:
        maker = Maker(server)
        maker.make(steps=1)
        maker.found = [title for title in titles if REPOSITORIES[title] in found]
        yield maker


@pytest.fixture(scope="module")
def together(webui, tmp_path_factory):
    with running(TOGETHER[0], webui, tmp_path_factory) as maker:
        maker.server.post(f"/e2e/motion-module?name={MOTION_MODULE}")
        yield maker


@pytest.fixture(scope="module")
def regional(webui, tmp_path_factory):
    with running(TOGETHER[1], webui, tmp_path_factory) as maker:
        yield maker


@pytest.fixture(scope="module")
def traced(webui, tmp_path_factory):
    with running(TOGETHER[2], webui, tmp_path_factory) as maker:
        yield maker


def asked(maker, title, *arguments):
    """Return what of a request switches an extension on; skips where there is none."""
    if title not in maker.found:
        pytest.skip(f"EXTENSIONS_DIR has no {REPOSITORIES[title]}")
    return {"alwayson_scripts": {title: {"args": list(arguments)}}}


def replayed(maker, cache=ON, **request):
    """Return the cached picture, the same with all blocks run, and the passes."""
    # Kohya's Hires.fix adds a callback with every job until there is one without it
    return replaying.replayed(maker, cache, before=lambda: maker.make(steps=1), **request)


def assert_reused(passes, *, full=4, reused=6):
    found = [done["statistics"] | {"reason": done["reason"]} for done in passes]
    assert [(done["full"], done["reused"], done["missed"]) for done in found] == [(full, reused, 0)] * len(found)
    assert not any(done["reason"] or done["error"] for done in found)


def split(maker):
    return {"override_settings": {"batch_cond_uncond": False, "sd_model_checkpoint": maker.model("SD1")}}


NEGATIVE = "a house by the sea, (trees:-1.5)"
NEGPIP = {
    "short prompts": {"prompt": NEGATIVE},
    "short prompts in split calls": {"prompt": NEGATIVE},
    "a long prompt": {"prompt": f"{NEGATIVE}, {LONG}"},
    "a long prompt and a negative one": {"prompt": f"{NEGATIVE}, {LONG}", "negative_prompt": "grey, (blue:-1)"},
}


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("case", NEGPIP)
def test_negpip(together, case, depth):
    request = TEN | NEGPIP[case] | (split(together) if "split" in case else {})
    switched_on = asked(together, "NegPiP", True)
    cached, all_blocks, passes = replayed(together, ON | {"depth": depth}, **request, **switched_on)
    assert_reused(passes)
    assert same(cached, all_blocks)
    assert not same(cached, together.make(cache=ON | {"depth": depth}, **request))


def animated(frames, context):
    return {
        "model": MOTION_MODULE,
        "enable": True,
        "video_length": frames,
        "batch_size": context,
        "format": ["GIF", "Frame"],
    }


def frames_of(reply, count):
    return [pixels(image) for image in reply["images"][-count:]]


def test_animatediff_with_as_many_frames_as_its_context(together):
    request = TEN | asked(together, "AnimateDiff", animated(frames=4, context=4))
    cached, all_blocks, passes = replayed(together, **request)
    assert_reused(passes)
    assert np.array_equal(frames_of(cached, 4), frames_of(all_blocks, 4))
    still = frames_of(together.make(cache=ON, **TEN, batch_size=4), 4)
    assert not np.array_equal(frames_of(cached, 4), still)


def test_animatediff_with_more_frames_than_its_context_is_made_in_full(together):
    """Its windows shift with the step, so that nothing tells which rows of the batch one has."""
    request = TEN | asked(together, "AnimateDiff", animated(frames=6, context=4))
    cached, passes = together.make(cache=ON, **request), together.last_run()["passes"]
    assert [(done["statistics"]["reused"], done["reason"]) for done in passes] == [(0, OTHERS)]
    assert OTHERS in cached["info"]["infotexts"][0]
    uncached = together.make(**request)
    assert np.array_equal(frames_of(cached, 6), frames_of(uncached, 6))
    still = frames_of(together.make(**TEN, batch_size=6), 6)
    assert not np.array_equal(frames_of(uncached, 6), still)


@pytest.mark.parametrize("smooth", [False, True], ids=["at once", "smoothly"])
@pytest.mark.parametrize("depth", [2, 4])
def test_kohya_hires_fix_across_its_thresholds(together, smooth, depth):
    """It wraps blocks until the third step, a refresh anyway, and others until the fifth, which is one more."""
    request = TEN | asked(together, "Kohya Hires.fix", True, True, 3, 4, 0.3, 0.5, "bicubic", 0.5, 2.0, smooth, False)
    cached, all_blocks, passes = replayed(together, ON | {"depth": depth}, **request)
    (done,) = passes
    assert done["statistics"]["full"] == 5
    assert done["statistics"]["error"] == ""
    assert done["reason"] == "1 evaluation more than planned made in full, as what was kept did not fit there"
    assert same(cached, all_blocks)
    assert not same(cached, together.make(cache=ON | {"depth": depth}, **TEN))


REGIONS = "a red house BREAK a green tree"
SPOKEN = "a house with a red door and a green tree BREAK red door BREAK green tree"


def regions(mode="Matrix", calculation="Attention"):
    ratios, base = ["1,1", "0.2"], [False, False, False]
    return [True, False, mode, "Columns", "Mask", "Prompt", *ratios, *base, calculation, [], "0", "0", "0.4", ""]


REGIONAL = {
    "attention": (REGIONS, regions()),
    "latent": (REGIONS, regions(calculation="Latent")),
    "prompt": (SPOKEN, regions("Prompt")),
    "prompt, latent": (SPOKEN, regions("Prompt", "Latent")),
}


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("mode", REGIONAL)
def test_regional_prompter(regional, mode, depth):
    prompt, arguments = REGIONAL[mode]
    request = TEN | {"prompt": prompt}
    switched_on = asked(regional, "Regional Prompter", *arguments)
    cached, all_blocks, passes = replayed(regional, ON | {"depth": depth}, **request, **switched_on)
    assert_reused(passes)
    assert np.array_equal(pixels(cached["images"][0]), pixels(all_blocks["images"][0]))
    plain = regional.make(cache=ON | {"depth": depth}, **request)
    assert not np.array_equal(pixels(cached["images"][0]), pixels(plain["images"][0]))


HEAT_MAPS = ["house, tree", False, True, True, False, "Auto", 1.0, 1.0, False, False]
"""Of two words, not kept as files, without captions, and with nothing of the picture shining through."""
HEAT_CACHES = {"Balanced": {"preset": "Balanced"}, "depth 0": ON | {"depth": 0}, "depth 2": ON}


@pytest.mark.parametrize("cache", HEAT_CACHES)
def test_daam_has_the_maps_of_every_evaluation(traced, cache):
    """A map of an evaluation that reuses is made of what the last full one gave the attention."""
    settings = {"sd_model_checkpoint": traced.model("SD1"), "samples_save": True}
    request = {"steps": 20, "prompt": "a house and a tree", "save_images": True, "override_settings": settings}
    request |= {"width": 64, "height": 64} | asked(traced, "Daam script", *HEAT_MAPS)
    uncached, wanted = traced.make(**request), traced.server.get("/e2e/heat-maps")
    cached, whole, (done,) = replayed(traced, HEAT_CACHES[cache], **request)
    traced.server.get("/e2e/heat-maps")
    assert same(cached, traced.make(cache=HEAT_CACHES[cache], **request))
    assert traced.server.get("/e2e/heat-maps") == wanted
    assert len(wanted) == request["steps"]
    assert any(wanted)
    assert (done["statistics"]["error"], done["reason"]) == ("", "")
    assert np.array_equal(pixels(cached["images"][-1]), pixels(whole["images"][-1]))
    fewer = traced.make(**request | {"steps": done["statistics"]["full"]})
    near, far = (maps_apart(one, uncached) for one in (cached, fewer))
    print(f"{cache}: heat maps {near:.1f} of 255 off in the mean, {far:.1f} with fewer steps")
    assert near < far


def maps_apart(one, other):
    """Return how far the heat maps of two replies, which come before the picture, are apart in the mean."""
    pairs = zip(one["images"][:-1], other["images"][:-1], strict=True)
    return np.mean([np.abs(pixels(a) - pixels(b)) for a, b in pairs])
