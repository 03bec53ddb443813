"""What other extensions and callers do in mid-run, and to passes: see `midrun/scripts/e2e_midrun.py`."""

from pathlib import Path

import pytest

from tests.e2e.pictures import HIRES, Maker, same
from tests.e2e.server import EXTENSIONS, serving

SCRIPTS = [Path(__file__).parent / "midrun/scripts"]
EARLY_AND_LATE = {"a-e2e-midrun": SCRIPTS, "z-e2e-midrun": SCRIPTS}
TUNED = {"prompt": "a house", "steps": 12, "sampler_name": "Euler", "seed": 3, "cfg_scale": 5}
TUNED |= {"width": 128, "height": 128}
BALANCED = {"preset": "Balanced"}


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    with serving(webui, tmp_path_factory.mktemp("midrun"), extensions=EXTENSIONS | EARLY_AND_LATE) as running:
        maker = Maker(running)
        maker.make(steps=1)
        yield maker


@pytest.fixture(autouse=True)
def _wishes_end(maker):
    yield
    for when in ("first", "last"):
        maker.server.post(f"/e2e/midrun/{when}", {})


def made(maker, cache, wishes=None, when="last", **request):
    """Return the reply to a request while the test's scripts do what is wished, and its passes."""
    maker.server.post(f"/e2e/midrun/{when}", wishes or {})
    reply = maker.make(cache=cache, **request)
    return reply, maker.last_run()["passes"]


def told(done):
    return done["name"], done["sampler"], done["plan"], done["reason"], done["statistics"]


def named(reply):
    """Return the settings that a picture's infotext names."""
    written = reply["info"]["extra_generation_params"].items()
    return {key.removeprefix("DeepCache ").replace(" ", "_"): value for key, value in written if "DeepCache " in key}


OTHER_PASSES = {
    "hires of few steps": ({}, HIRES | {"hr_second_pass_steps": 8}),
    "hires of as many": ({}, HIRES | {"hr_second_pass_steps": 12}),
    "hires, DPM adaptive": ({}, HIRES | {"hr_sampler_name": "DPM adaptive", "hr_second_pass_steps": 10}),
    "inner of 9": ({"inner": 9}, {}),
    "inner of 17": ({"inner": 17}, {}),
}


def test_a_tuned_plan_is_for_its_run_and_every_other_pass_is_the_presets(maker):
    """Without plans, with them, and by what the infotext of the latter names where there are none."""
    server, sd1 = maker.server, {"override_settings": {"sd_model_checkpoint": maker.model("SD1")}}

    def all_passes(of=lambda _case: BALANCED):
        cases = OTHER_PASSES.items()
        return {case: made(maker, of(case), wishes, **TUNED, **request) for case, (wishes, request) in cases}

    server.request("/deepcache/v1/tune", method="DELETE")
    before = all_passes()
    server.post("/deepcache/v1/tune", TUNED | sd1)
    try:
        after = all_passes()
    finally:
        server.request("/deepcache/v1/tune", method="DELETE")
    assert all("DeepCache steps" in reply["info"]["extra_generation_params"] for reply, _ in after.values())
    repeated = all_passes(lambda case: named(after[case][0]))
    for case, (reply, passes) in after.items():
        assert [told(done) for done in passes[1:]] == [told(done) for done in before[case][1][1:]], case
        assert [told(done) for done in repeated[case][1]] == [told(done) for done in passes], case
        assert same(repeated[case][0], reply), case


@pytest.mark.parametrize("inner", [True, False])
def test_another_run_of_a_sampler_on_the_tabs_own_job_is_an_inner_pass(maker, inner):
    cache = {"interval": 3, "depth": 1, "inner": inner, "hires": "off"}
    _, (first, second) = made(maker, cache, {"second": 15}, steps=20)
    assert (first["name"], first["statistics"]["reused"]) == ("txt2img", 13)
    assert second["name"] == "inner txt2img"
    assert second["reason"] == ("" if inner else "switched off for this pass")
    assert second["statistics"]["reused"] == (10 if inner else 0)


def test_a_list_beside_a_preset_is_not_for_another_run_of_a_sampler(maker):
    _, (first, second) = made(maker, {"preset": "Balanced", "steps": "0-6, 15"}, {"second": 15}, steps=20)
    _, (_, alone) = made(maker, BALANCED, {"second": 15}, steps=20)
    assert first["plan"] == "0-6, 15"
    assert told(second) == told(alone)
    assert second["statistics"]["reused"] > 0
