"""The API: both forms of arguments, what it tells about itself, infotext, and bad settings."""

import pytest

from deepcache_ext import Settings
from deepcache_ext.webui.options import CONTROLS
from deepcache_ext.webui.presets import PRESETS
from tests.e2e.pictures import EVERY_THIRD, HIRES, same
from tests.unit.test_readme import api_examples

FAST = {"interval": 5, "depth": 2}


def test_positional_and_named_values_make_the_same_picture(maker):
    by_name = maker.make(cache=FAST)
    assert maker.counts() == [("txt2img", 2, 6)]
    assert same(by_name, maker.make(cache=[True, "Custom", "uniform", "2", "5", "2"]))
    assert same(by_name, maker.make(cache={"interval": "5", "depth": 2.0}))


def test_a_preset_alone(maker):
    maker.make(cache=[True, "Fast"], steps=10)
    assert maker.counts() == [("txt2img", 4, 6)]
    maker.make(cache={"preset": "Quality"}, steps=10)
    assert maker.counts() == [("txt2img", 7, 3)]
    maker.make(cache={"preset": "Quality"}, steps=9)
    assert maker.counts() == [("txt2img", 0, 0)]
    assert "little to gain" in maker.last_run()["passes"][0]["reason"]


def test_script_info_describes_every_control(maker):
    infos = [info for info in maker.server.get("/sdapi/v1/script-info") if info["name"] == "deepcache"]
    assert [info["is_img2img"] for info in infos] == [False, True]
    for info in infos:
        assert [argument["label"] for argument in info["args"]] == [control.label for control in CONTROLS.values()]
        by_label = {argument["label"]: argument for argument in info["args"]}
        interval = by_label["Interval"]
        assert [interval[key] for key in ("value", "minimum", "maximum", "step")] == [3, 1, 50, 1]
        assert by_label["Schedule"]["choices"] == ["auto", "uniform", "non-uniform", "list"]


def test_the_schema_and_the_last_run_need_the_password(maker):
    for path in ("/deepcache/v1/schema", "/deepcache/v1/last-run"):
        assert maker.server.request(path, auth=False)[0] == 401
    assert list(maker.server.get("/deepcache/v1/schema")["properties"]) == list(CONTROLS)


def test_the_last_run_tells_what_happened(maker):
    maker.make(cache=FAST)
    (done,) = maker.last_run()["passes"]
    assert done["sampler"] == "Euler"
    assert done["unet_seconds"] > 0
    assert done["speed_up"] > 1
    assert done["reason"] == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "Quality"},
        {"speed_up": 2.5},
        {"speed_up": 3, "forecast": "off"},
        FAST,
        {"schedule": "list", "steps": "0, 2, 5-6"},
        {"schedule": "non-uniform", "center": 4, "power": 2.0, "end": 0.9},
    ],
    ids=str,
)
def test_infotext_repeats_the_picture(maker, settings):
    one = maker.make(cache=settings)
    text = one["info"]["infotexts"][0]
    assert "DeepCache enabled: True" in text
    assert same(one, maker.repeat(text))


def test_infotext_of_a_picture_without_deepcache_turns_it_off(maker):
    one = maker.make()
    assert "DeepCache" not in one["info"]["infotexts"][0]
    assert same(one, maker.repeat(one["info"]["infotexts"][0]))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"interval": 0}, "interval must be a whole number from 1 to 50; got 0"),
        ({"interval": "many"}, "interval must be a whole number from 1 to 50; got 'many'"),
        ({"depth": 40}, "depth must be a whole number from 0 to 11; got 40"),
        ({"steps": [1, "x"], "schedule": "list"}, "steps must be a list of evaluations from 0 to 9999"),
        ({"center": None, "schedule": "non-uniform"}, "center must be a whole number from -1000 to 1000; got None"),
        ({"schedule": {"a": 1}}, "schedule must be one of auto, uniform, non-uniform, list; got {'a': 1}"),
        ({"start": 0.9, "end": 0.1}, "start must be a number from 0 to end, which is 0.1; got 0.9"),
        ({"speed": 2}, "'speed' is no setting of DeepCache; did you mean speed_up?"),
        ({"hires": "own", "hires_interval": 5}, "hires_interval has no effect with the schedule auto"),
        ({"prompt": "x" * 20_000, "steps": "y" * 20_000}, "'prompt' is no setting of DeepCache"),
        ([True, "Custom", "auto", None], "speed_up must be a number from 1 to 4; got None"),
        ([[1]], "enabled must be true or false; got [1]"),
    ],
    ids=str,
)
def test_with_bad_settings_the_picture_is_made_without_caching(maker, settings, sentence):
    reply = maker.make(cache=settings)
    assert same(reply, maker.make())
    assert sentence in reply["info"]["extra_generation_params"]["DeepCache not used"]
    assert sentence in maker.last_run()["reason"]
    assert len(maker.last_run()["reason"]) <= 200


def test_a_depth_that_sdxl_lacks_is_explained(maker):
    model = maker.model("SDXL")
    reply = maker.make(cache={"depth": 11}, model=model)
    sentence = "depth must be a whole number from 0 to 8 for this U-Net; got 11"
    assert sentence in reply["info"]["extra_generation_params"]["DeepCache not used"]
    assert same(reply, maker.make(model=model))


@pytest.mark.usefixtures("a1111")
def test_an_engine_in_the_place_of_the_unet_is_explained(maker):
    model = maker.model("SD1")
    engine = {"override_settings": {"sd_model_checkpoint": model, "sd_unet": "e2e engine"}}
    reply = maker.make(cache=EVERY_THIRD, **engine)
    sentence = 'the U-Net is replaced by the engine "e2e engine"; choose "None" as SD Unet in the settings'
    assert reply["info"]["extra_generation_params"]["DeepCache not used"] == sentence
    assert maker.last_run()["passes"][0]["reason"] == sentence
    assert same(reply, maker.make(**engine))
    maker.make(cache=EVERY_THIRD)
    assert maker.counts() == [("txt2img", 3, 5)]


@pytest.mark.parametrize("family", ["SD1", "SDXL"])
def test_the_presets_depth_is_the_familys(maker, family):
    reply = maker.make(cache={"preset": "Fast"}, model=maker.model(family), steps=10)
    told = reply["info"]["extra_generation_params"].get("DeepCache depth", Settings().depth)
    assert told == PRESETS["Fast"][family]["depth"]
    assert maker.counts() == [("txt2img", 4, 6)]


@pytest.mark.parametrize("example", api_examples(), ids=lambda example: str(example["alwayson_scripts"]["DeepCache"]))
def test_the_readmes_examples_are_cached(maker, example):
    small = {"width": 128, "height": 128, "override_settings": {"sd_model_checkpoint": maker.model("SD1")}}
    maker.server.post("/sdapi/v1/txt2img", example | small)
    ((_, full, reused),) = maker.counts()
    assert (full + reused, reused > full) == (20, True)


def test_what_is_named_goes_over_the_preset(maker, alone):
    assert same(maker.make(cache={"preset": "Balanced"} | EVERY_THIRD), alone)
    assert same(maker.make(cache=[True, "Balanced", "uniform", 2.0, 4, 1]), maker.make(cache={"interval": 4}))
    assert maker.counts() == [("txt2img", 2, 6)]


def test_an_interval_of_the_hires_pass_leaves_the_first_pass_to_the_preset(maker):
    request = HIRES | {"steps": 12, "hr_second_pass_steps": 6}
    maker.make(cache={"preset": "Balanced"}, **request)
    first, _ = maker.counts()
    maker.make(cache={"preset": "Balanced", "hires_interval": 2}, **request)
    assert maker.counts() == [first, ("hires", 3, 3)]
    maker.make(cache={"preset": "Balanced", "hires_speed_up": 2}, **request)
    assert maker.counts()[1][2] > 0


def test_infotext_has_the_depth_in_force(maker):
    one = maker.make(cache={"interval": 3, "depth": 0, "forecast": "off"})
    assert "DeepCache depth" not in one["info"]["extra_generation_params"]
    assert same(one, maker.make(cache={"interval": 3, "depth": 1, "forecast": "off"}))


def test_values_after_an_object_are_told_of(maker):
    reply = maker.make(cache=[{"enabled": True, "interval": 3}, True, "Fast"])
    sentence = "an object of settings comes alone; got True after it"
    assert reply["info"]["extra_generation_params"]["DeepCache not used"] == sentence
    assert same(reply, maker.make())
