"""What other extensions and callers do in mid-run, and to passes: see `midrun/scripts/e2e_midrun.py`."""

import json
from pathlib import Path

import pytest

from tests.e2e.pictures import HIRES, Maker, same
from tests.e2e.server import EXTENSIONS, serving

SCRIPTS = [Path(__file__).parent / "midrun/scripts"]
EARLY_AND_LATE = {"a-e2e-midrun": SCRIPTS, "z-e2e-midrun": SCRIPTS}
TUNED = {"prompt": "", "steps": 12, "sampler_name": "Euler", "seed": 3, "cfg_scale": 5}
TUNED |= {"width": 128, "height": 128}
BALANCED = {"preset": "Balanced"}


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("midrun")
    (folder / "styles.csv").write_text("name,prompt,negative_prompt\ne2e,a [house:tree:0.5],\n", encoding="utf-8")
    with serving(webui, folder, extensions=EXTENSIONS | EARLY_AND_LATE) as running:
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


def keep_plan(maker, **plan):
    """Keep a plan for the run TUNED as a tuning does; without any, none."""
    hash_ = maker.make(steps=1)["info"]["sd_model_hash"]
    key = {"checkpoint": hash_, "sampler": "Euler", "scheduler": "Automatic", "kind": "txt2img", "evaluations": 12}
    rest = {"depth": 1, "forecast": "on", "psnr": 30.0, "usual": 29.0, "fewer_steps": 6, "fewer": 20.0}
    plans = [key | {"presets": {"Balanced": rest | plan}}] if plan else []
    file = Path(maker.server.get("/deepcache/v1/tune")["file"])
    file.write_text(json.dumps({"format": "DeepCache plans, 1", "plans": plans}), encoding="utf-8")
    assert len(maker.server.get("/deepcache/v1/tune")["plans"]) == len(plans)


@pytest.fixture
def plan(maker):
    """Return the full evaluations of a plan that is kept for the run TUNED."""
    steps = [0, 1, 2, 5, 8]
    keep_plan(maker, steps=steps)
    yield steps
    keep_plan(maker)


@pytest.mark.parametrize("case", OTHER_PASSES)
def test_a_tuned_plan_is_for_its_run_and_every_other_pass_is_the_presets(maker, plan, case):
    """With a plan, without it, and by what the infotext of the first names, without it."""
    wishes, request = OTHER_PASSES[case]
    one, passes = made(maker, BALANCED, wishes, **TUNED, **request)
    keep_plan(maker)
    _, presets = made(maker, BALANCED, wishes, **TUNED, **request)
    repeated, again = made(maker, named(one), wishes, **TUNED, **request)
    assert (passes[0]["plan"], passes[0]["statistics"]["full"]) == ("0-2, 5, 8", len(plan))
    assert passes[0]["plan"] != presets[0]["plan"]
    assert [told(done) for done in passes[1:]] == [told(done) for done in presets[1:]]
    assert [told(done) for done in again] == [told(done) for done in passes]
    assert same(repeated, one)


@pytest.mark.usefixtures("plan")
@pytest.mark.parametrize("wish", [{"prompt": "a [house:tree:0.5]"}, {}], ids=["a wildcard", "a style"])
def test_a_tuned_plan_is_not_for_a_prompt_that_changes_in_mid_run_whoever_wrote_it(maker, wish):
    style = {} if wish else {"styles": ["e2e"]}
    one, (done,) = made(maker, BALANCED, wish, **TUNED, **style)
    typed, (as_typed,) = made(maker, BALANCED, **TUNED | {"prompt": "a [house:tree:0.5]"})
    assert told(done) == told(as_typed)
    assert same(one, typed)
    assert named(one) == named(typed)


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


@pytest.mark.usefixtures("a1111")
@pytest.mark.parametrize("when", ["first", "last"])
def test_a_noise_level_that_a_script_bends_leaves_the_unconds_to_the_hosts_own(maker, when):
    options = {"s_min_uncond": 3.0, "s_min_uncond_all": True, "sd_model_checkpoint": maker.model("SD1")}
    request = {"steps": 20, "override_settings": options}
    _, (usual,) = made(maker, {"interval": 2}, **request)
    _, (done,) = made(maker, {"interval": 2}, {"bend": 0.1}, when, **request)
    assert done["statistics"] == usual["statistics"]
    assert (done["statistics"]["full"], done["statistics"]["reused"], done["reason"]) == (10, 10, "")


HYPERNETWORK = {"name": "e2emidrun", "enable_sizes": [768], "overwrite_old": False, "layer_structure": [1, 2, 1]}
HYPERNETWORK |= {"activation_func": "relu", "weight_init": "XavierNormal"}
LISTED = {"steps": "0-3, 9", "depth": 1, "preset": "Custom"}
JUMPS = {
    "LoRA": ("LoRA", -0.7),
    "the dimension of a LoRA": ("dimension", 2),
    "a LoRA that ends": ("no LoRA", 0.0),
    "hypernetwork": ("hypernetwork", 0.3),
    "a merge in place": ("merge", 0.0),
}
"""What is changed, and by how much; a merge of nothing is one too, and leaves nothing behind."""


@pytest.fixture(scope="module")
def networks(maker):
    """Return a prompt with a LoRA and a hypernetwork."""
    if not any("tiny" in lora["name"] for lora in maker.server.get("/sdapi/v1/loras")):
        pytest.skip("the WebUI has no LoRA for the small checkpoint")
    maker.server.post("/sdapi/v1/create/hypernetwork", HYPERNETWORK)
    return {"prompt": f"a house <lora:tiny-lora:1> <hypernet:{HYPERNETWORK['name']}:1>", "steps": 12}


@pytest.mark.usefixtures("a1111")
@pytest.mark.parametrize("when", ["first", "last"])
@pytest.mark.parametrize("jump", JUMPS)
def test_a_network_that_jumps_in_mid_run_makes_the_evaluation_full(maker, networks, jump, when):
    what, by = JUMPS[jump]
    _, (done,) = made(maker, LISTED, {"what": what, "at": 6, "by": by}, when, **networks)
    assert (done["in_full"], done["statistics"]["switched"]) == ("0-3, 6-7, 9", 2)
    assert done["reason"].startswith("2 evaluations more than planned made in full, as prompts, unconds or the network")


@pytest.mark.usefixtures("a1111")
def test_a_network_that_changes_with_every_evaluation_or_not_at_all_goes_on_as_planned(maker, networks):
    _, (still,) = made(maker, LISTED, **networks)
    _, (ramp,) = made(maker, LISTED, {"what": "LoRA", "every": 1, "by": -0.05}, **networks)
    assert [(done["in_full"], done["reason"]) for done in (still, ramp)] == [("0-3, 9", "")] * 2
    _, (late,) = made(maker, LISTED | {"steps": "0, 6"}, {"what": "LoRA", "every": 1, "by": -0.05}, **networks)
    assert late["in_full"] == "0-2, 6"
