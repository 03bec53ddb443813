"""Jobs that end early, and what happens between jobs: the next picture is the one from before, and nothing is left."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.pictures import EVERY_THIRD, HIRES, SIZE, STEPS, Maker, same
from tests.e2e.server import serving

pytestmark = pytest.mark.usefixtures("_nothing_is_left")
ON = EVERY_THIRD
LONG = 60
ENOUGH = 4
"""Steps after which a run is in its middle: features are kept and have been reused."""


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory):
    with serving(webui, tmp_path_factory.mktemp("interrupted")) as running:
        yield Maker(running)


def make_and(maker, action, *, run=0, **request):
    """Return the reply of a long request in whose sampling run of that number `action` is posted."""
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(maker.make, cache=ON, steps=LONG, **request)
        while not making.done():
            state = maker.server.get("/sdapi/v1/progress?skip_current_image=true")["state"]
            if state["job_no"] == run and state["sampling_steps"] == LONG and state["sampling_step"] >= ENOUGH:
                maker.server.post(f"/sdapi/v1/{action}")
                break
            time.sleep(0.02)
        return making.result()


def made(maker):
    """Return how many evaluations each pass of the last job made."""
    return [full + reused for _, full, reused in maker.counts()]


def test_interrupt(maker):
    make_and(maker, "interrupt", n_iter=2)
    (evaluations,) = made(maker)
    assert ENOUGH <= evaluations < LONG


def test_interrupt_in_the_hires_pass(maker):
    make_and(maker, "interrupt", run=1, **HIRES)
    first, hires = made(maker)
    assert first == LONG
    assert ENOUGH <= hires < LONG


def test_skip_goes_on_with_the_next_picture(maker):
    pictures = make_and(maker, "skip", n_iter=2)["images"]
    skipped, second = made(maker)
    assert ENOUGH <= skipped < second == LONG
    assert same({"images": pictures[-1:]}, maker.make(cache=ON, steps=LONG, seed=8))


def failing(maker, wish, **request):
    """Return the host's answer to a cached request in which the helper does what the wish says."""
    maker.server.post(f"/e2e/want?{wish}")
    body = {"prompt": "a house by the sea", "steps": STEPS, "width": SIZE, "height": SIZE, "sampler_name": "Euler"}
    body |= {"alwayson_scripts": {"DeepCache": {"args": [{"enabled": True} | ON]}}}
    body |= {"override_settings": {"sd_model_checkpoint": maker.model("SD1")}} | request
    status, answer = maker.server.request("/sdapi/v1/txt2img", body)
    assert status == 500
    return answer


@pytest.mark.parametrize("evaluation", [1, 3, 4], ids=["the first refresh", "a reuse", "a later refresh"])
def test_out_of_memory(maker, evaluation):
    assert "OutOfMemoryError" in failing(maker, f"raise_at={evaluation}")
    assert made(maker) == [evaluation]


def test_out_of_memory_in_the_hires_pass(maker):
    assert "OutOfMemoryError" in failing(maker, f"raise_at={STEPS + 1}", hr_second_pass_steps=12, **HIRES)
    assert made(maker) == [STEPS, STEPS + 1]


def test_what_a_pass_did_is_told_where_its_picture_can_not_be_decoded(maker):
    maker.make(cache={"interval": 8})
    assert "no picture of these" in failing(maker, "decode=false")
    assert maker.counts() == [("txt2img", 3, 5)]
    assert maker.last_run()["passes"][0]["sampling_seconds"] > 0


@pytest.mark.parametrize("evaluation", [3, 4], ids=["a reuse", "a refresh"])
def test_nan(webui, maker, evaluation):
    if webui.forge:
        pytest.skip(f"{webui.name} looks for no NaN")
    assert "NansException" in failing(maker, f"nan_at={evaluation}")


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
@pytest.mark.parametrize("limit", [1, 2], ids=["in its place", "beside it"])
def test_another_checkpoint_loaded_while_idle_and_back(webui, maker, kind, limit):
    if webui.name == "Forge":
        pytest.skip("Forge loads a checkpoint only when a picture is made")
    first = maker.model("SD1")
    other = maker.model(kind, but=first)
    maker.server.post("/sdapi/v1/options", {"sd_checkpoints_limit": limit})
    try:
        for model in (other, first):
            maker.server.post("/sdapi/v1/options", {"sd_model_checkpoint": model})
            assert maker.state()["checkpoint"] == model
    finally:
        maker.server.post("/sdapi/v1/options", {"sd_checkpoints_limit": 1})


def test_reload_ui(maker):
    maker.server.post("/e2e/reload")
    maker.server.wait_for_start(2)
