"""Tuning: what it keeps is what presets make from then on, and infotext repeats it."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.pictures import same

SIZE = {"width": 128, "height": 128}
RUN = {"prompt": "a house", "steps": 12, "sampler_name": "Euler", "seed": 3, "cfg_scale": 5} | SIZE
PRESETS = {"Quality", "Balanced", "Fast"}


@pytest.fixture
def request_(maker):
    maker.server.request("/deepcache/v1/tune", method="DELETE")
    yield RUN | {"override_settings": {"sd_model_checkpoint": maker.model("SD1")}}
    maker.make()
    maker.server.request("/deepcache/v1/tune", method="DELETE")
    assert maker.server.get("/deepcache/v1/tune")["plans"] == []


def with_preset(maker, preset):
    reply = maker.make(cache={"preset": preset}, **{name: RUN[name] for name in ("prompt", "steps", "seed")})
    (done,) = maker.last_run()["passes"]
    return reply, done


def test_presets_make_what_was_found_and_infotext_repeats_it(maker, request_):
    before = {preset: with_preset(maker, preset) for preset in PRESETS}
    told = maker.server.get("/deepcache/v1/tune")["pictures"]
    found = maker.server.post("/deepcache/v1/tune", request_)
    assert (found["sampler"], found["kind"], found["evaluations"], found["note"]) == ("Euler", "txt2img", 12, "")
    assert found["seeds"] == [3, 4]
    assert found["pictures"] == told == 12
    assert set(found["presets"]) == PRESETS
    (kept,) = maker.server.get("/deepcache/v1/tune")["plans"]
    made = {}
    for preset, plan in found["presets"].items():
        assert kept["presets"][preset]["steps"] == plan["steps"]
        assert plan["psnr"] >= plan["usual"]
        reply, done = made[preset] = with_preset(maker, preset)
        assert done["statistics"]["full"] == len(plan["steps"])
        if plan["psnr"] == plan["usual"]:
            assert same(reply, before[preset][0])
        written = reply["info"]["extra_generation_params"]
        assert written.get("DeepCache preset", "Balanced") == preset
        assert written["DeepCache steps"] == ", ".join(map(str, plan["steps"]))
    maker.server.request("/deepcache/v1/tune", method="DELETE")
    for preset, (reply, _) in made.items():
        assert same(maker.repeat(reply["info"]["infotexts"][0]), reply)
        assert same(with_preset(maker, preset)[0], before[preset][0])


def test_an_interruption_keeps_what_is_found(maker, request_):
    with ThreadPoolExecutor(1) as pool:
        tuning = pool.submit(maker.server.post, "/deepcache/v1/tune", request_ | {"steps": 30})
        while not tuning.done():
            if maker.server.get("/deepcache/v1/tune")["plans"]:
                maker.server.post("/sdapi/v1/interrupt")
                break
            time.sleep(0.02)
        found = tuning.result()
    assert found["note"].startswith("The tuning ended early: it was interrupted.")
    assert "Quality" in found["presets"]
    assert "Fast" not in found["presets"]
    (kept,) = maker.server.get("/deepcache/v1/tune")["plans"]
    assert set(kept["presets"]) == set(found["presets"])


def test_what_cannot_be_tuned_is_told(maker, request_):
    status, answer = maker.server.request("/deepcache/v1/tune", request_ | {"sampler_name": "DPM adaptive"})
    assert status == 422
    assert "this sampler does not tell how many evaluations it will make" in answer
    status, answer = maker.server.request("/deepcache/v1/tune", request_ | {"steps": "many"})
    assert (status, "steps" in answer) == (422, True)
