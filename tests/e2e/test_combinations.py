"""DeepCache with whatever else is switched on, in the real host.

The checkpoints may be random, so that closeness here only means: as close to the uncached picture as without.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.pictures import HIRES, closeness, psnr, same

ON = {"interval": 3, "depth": 2}
TEN = {"steps": 10}
LONG = ", ".join(f"a {adjective} house" for adjective in ("red", "green", "blue", "tall", "small", "old", "new") * 5)
SLACK = 3.0
"""How many dB a combination may be less close than the plain picture."""


def settings(**options):
    return {"override_settings": options}


PADDED = "long prompt, padded"


@pytest.fixture(scope="module")
def usual(maker):
    """Return how close the plain picture is, and that of the long prompt in one call, if the host pads prompts."""
    requests = [request for request in ("plain", PADDED) if not maker.unknown(PROMPTS[request])]
    return {request: closeness(maker, **PROMPTS[request])[0] for request in requests}


PROMPTS = {
    "plain": {},
    "batch_cond_uncond off": settings(batch_cond_uncond=False),
    "long prompt": {"prompt": LONG},
    "long prompt, batch_cond_uncond off": {"prompt": LONG} | settings(batch_cond_uncond=False),
    PADDED: {"prompt": LONG} | settings(pad_cond_uncond=True),
    "AND": {"prompt": "a house AND a tree :0.5 AND the sea"},
    "AND, batch_cond_uncond off": {"prompt": "a house AND a tree :0.5"} | settings(batch_cond_uncond=False),
    "BREAK": {"prompt": "a house BREAK a tree"},
    "BREAK with a short negative": {"prompt": "a house BREAK a tree", "negative_prompt": "grey"},
    "batch of 3": {"batch_size": 3},
    "batch of 3, long prompt": {"batch_size": 3, "prompt": LONG},
    "CFG 1": {"cfg_scale": 1},
    "token merging": settings(token_merging_ratio=0.5),
    "hypertile": settings(hypertile_enable_unet=True),
    "136x200": {"width": 136, "height": 200},
    "Skip Early CFG": settings(skip_early_cond=0.3),
    "Negative Guidance minimum sigma": settings(s_min_uncond=4.0),
    "Negative Guidance minimum sigma, all steps": settings(s_min_uncond=4.0, s_min_uncond_all=True),
    "hires fix to 1.4": HIRES | {"hr_scale": 1.4, "hr_second_pass_steps": 10},
}


FAULTS = {("reForge", "hypertile"): "answers with an error, without DeepCache too"}
"""What a host itself does not do."""


@pytest.mark.parametrize("combination", PROMPTS)
def test_a_combination_is_as_close_as_the_plain_picture(webui, maker, usual, combination):
    if fault := FAULTS.get((webui.name, combination)):
        pytest.skip(f"{webui.name} {fault}")
    like = PADDED if "long prompt" in combination else "plain"
    if like not in usual:
        pytest.skip(f"{webui.name} pads no prompts, and nothing else says how close a long one should be")
    found, passes = closeness(maker, **PROMPTS[combination])
    uncond_returns = "Skip Early" in combination
    assert all(done["full"] + done["reused"] == 10 for done in passes), passes
    # the evaluation in which they return and, for the line of theirs, the next
    assert all(done["full"] <= 4 + 2 * uncond_returns and done["missed"] <= uncond_returns for done in passes), passes
    assert found > usual[like] - SLACK, (found, usual)


@pytest.mark.parametrize(
    "request_", [{}, {"prompt": LONG}, {"prompt": "a house AND a tree :0.5"}], ids=["short", "long", "AND"]
)
def test_split_calls_make_the_picture_of_one_call(maker, request_):
    options = {"sd_model_checkpoint": maker.model("SD1")}
    asked = TEN | {"batch_size": 2, "cache": ON} | request_
    one = maker.make(override_settings=options | {"batch_cond_uncond": True}, **asked)
    split = maker.make(override_settings=options | {"batch_cond_uncond": False}, **asked)
    assert psnr(one, split) > 45


def test_prompt_editing_that_changes_the_token_count_in_mid_run(maker, usual):
    found, (done,) = closeness(maker, prompt=f"a house [: {LONG}:0.5]")
    assert done["full"] + done["reused"] == 10
    assert found > usual["plain"] - SLACK


def test_a_lora_also_changed_between_generations(maker, usual):
    if not any("tiny" in lora["name"] for lora in maker.server.get("/sdapi/v1/loras")):
        pytest.skip("the WebUI has no LoRA for the small checkpoint")
    strong = {"prompt": "a house <lora:tiny-lora:1>"}
    assert not same(maker.make(**TEN, **strong), maker.make(**TEN, prompt="a house"))
    first = maker.make(cache=ON, **TEN, **strong)
    assert closeness(maker, **strong)[0] > usual["plain"] - SLACK
    assert closeness(maker, prompt="a house <lora:tiny-lora:-0.5>")[0] > usual["plain"] - SLACK
    assert closeness(maker, prompt="a house")[0] > usual["plain"] - SLACK
    assert same(maker.make(cache=ON, **TEN, **strong), first)


def test_several_requests_at_once(maker):
    caches = [{"interval": interval} for interval in (2, 3, 5)] + [None]
    alone = [maker.make(cache=cache, **TEN) for cache in caches]
    with ThreadPoolExecutor(len(caches)) as pool:
        together = list(pool.map(lambda cache: maker.make(cache=cache, **TEN), caches))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_fifty_pictures_leave_no_tensor_behind(maker):
    request = {"steps": 4, "width": 64, "height": 64, "cache": {"interval": 2}}
    tensors = []
    for pictures in (2, 50):
        for _ in range(pictures):
            maker.make(**request)
        tensors.append(maker.state()["tensors"])
    assert tensors[0] == tensors[1]
