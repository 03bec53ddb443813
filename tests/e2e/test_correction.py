"""What reuses were off is made up for in the real host, or the report counts how often it is not."""

import pytest

from tests.e2e.pictures import HIRES, mask_of, picture_of, psnr, same

LIST = {"schedule": "list", "steps": "0, 2, 5, 7", "depth": 0}
"""Of ten evaluations; five calls that reuse have a full evaluation after them, the last two have none."""
TEN = {"steps": 10, "width": 64, "height": 64}
LONG = ", ".join(f"a {adjective} house" for adjective in ("red", "green", "blue", "tall", "small", "old", "new") * 5)
SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE"]


def corrected(maker):
    """Return of each pass how many calls were put right, and how many will never be."""
    found = [done["statistics"] for done in maker.last_run()["passes"]]
    return [(done["corrected"], done["uncorrected"]) for done in found]


@pytest.mark.parametrize("sampler", [*SAMPLERS, "DDIM"])
def test_a_sampler_is_corrected_and_makes_the_same_picture_twice(maker, sampler):
    request = TEN | {"sampler_name": sampler, "scheduler": "Karras"}
    with_it = maker.make(cache=LIST, **request)
    ((put_right, never),) = corrected(maker)
    if sampler == "DPM++ 3M SDE":
        assert put_right in {0, 3}  # its steps may look back too much in so few
    else:
        assert put_right == 4 - (maker.counts() == [("txt2img", 5, 4)])  # DDIM makes an evaluation less
    assert never == 0
    assert same(with_it, maker.make(cache=LIST, **request))
    if put_right:
        assert not same(with_it, maker.make(cache=LIST | {"correction": "off"}, **request))


@pytest.mark.parametrize("sampler", ["Heun", "DPM2", "LMS", "UniPC"])
def test_samplers_that_do_not_pay_back_make_the_picture_that_they_made_before(maker, sampler):
    request = TEN | {"sampler_name": sampler}
    usual = maker.make(cache=LIST, **request)
    assert corrected(maker) == [(0, 0)]
    assert same(usual, maker.make(cache=LIST | {"correction": "off"}, **request))


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_a_batch_has_the_pictures_of_single_jobs(maker, sampler):
    request = TEN | {"sampler_name": sampler, "cache": LIST}
    batch = maker.make(**request, batch_size=3)
    for number in (0, 2):
        alone = maker.make(**request, seed=7 + number)
        assert psnr({"images": batch["images"][number + len(batch["images"]) - 3 :][:1]}, alone) > 45


WITH = {
    "long prompt": ({"prompt": LONG}, 1),
    "AND": ({"prompt": "a house AND a tree :0.5"}, 1),
    "calls of one row": ({"batch_cond_uncond": False}, 2),
    "CFG 1": ({"cfg_scale": 1}, 1),
    "136x72": ({"width": 136, "height": 72}, 1),
}


@pytest.mark.parametrize("what", WITH)
def test_whatever_makes_up_an_evaluation_is_put_right(webui, maker, what):
    request, calls = WITH[what]
    request, options = dict(request), {"sd_model_checkpoint": maker.model("SD1")}
    if "batch_cond_uncond" in request:
        options["batch_cond_uncond"] = request.pop("batch_cond_uncond")
    maker.make(cache=LIST, override_settings=options, **TEN | request)
    ((put_right, never),) = corrected(maker)
    assert never == 0
    # a host may make two calls of prompts that differ in length, and one whatever the option says
    assert put_right in {4, 8} if webui.forge else put_right in {4 * calls, 8}
    assert maker.counts() == [("txt2img", 4, 6)]


def test_rows_that_come_and_go_are_left_as_they_are_and_counted(webui, maker):
    if webui.name == "Forge Classic":
        pytest.skip("Forge Classic leaves the unconds out from one evaluation on, and never has them again")
    options = {"s_min_uncond": 4.0, "sd_model_checkpoint": maker.model("SD1")}
    maker.make(cache=LIST, **TEN, override_settings=options)
    ((put_right, never),) = corrected(maker)
    assert put_right + never <= 6
    assert put_right < 4


def test_a_prompt_that_changes_begins_anew(maker):
    maker.make(cache=LIST, **TEN, prompt="a [house:tree:4]")
    ((put_right, _),) = corrected(maker)
    assert 0 < put_right < 4


def test_both_passes_of_hires_fix(maker):
    cache = {"schedule": "auto", "speed_up": 2.0, "depth": 0}
    maker.make(cache=cache, **TEN | HIRES | {"hr_scale": 1.5, "hr_second_pass_steps": 12})
    first, second = corrected(maker)
    assert first[0] > 0
    assert second[0] > 0


def test_inpainting(maker):
    request = {"init_images": [picture_of(64)], "mask": mask_of(64), "denoising_strength": 0.99, "inpainting_fill": 1}
    maker.make("img2img", cache=LIST, **TEN | request)
    ((put_right, never),) = corrected(maker)
    assert (put_right, never) == (4, 0)


def test_infotext_says_it_and_without_it_means_off(maker):
    made = maker.make(cache=LIST, **TEN)
    (text,) = made["info"]["infotexts"][:1]
    assert "DeepCache correction: on" in text
    assert same(maker.repeat(text), made)
    off = maker.make(cache=LIST | {"correction": "off"}, **TEN)
    (older,) = off["info"]["infotexts"][:1]
    assert "DeepCache correction" not in older
    assert same(maker.repeat(older), off)
