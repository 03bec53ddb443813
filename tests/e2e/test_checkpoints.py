"""Checkpoints of other kinds, sizes of batches, and hires fix to other sizes."""

import pytest

from tests.e2e.pictures import EVERY_THIRD, HIRES, closeness, mask_of, picture_of, pixels, psnr, same
from tests.e2e.test_combinations import ON, SLACK, TEN

PICTURE = {"path": "img2img", "init_images": [picture_of()], "denoising_strength": 0.9}
MASK = {"mask": mask_of(), "inpainting_fill": 1}


def in_one_call_and_split(maker, model, **request):
    """Return how close the cached picture is, and its calls in full and reused; in one call, then in split calls."""
    pictures, found = [], []
    for together in (True, False):
        options = {"batch_cond_uncond": together, "sd_model_checkpoint": model}
        request |= {"model": model, "override_settings": options}
        closeness_, (done,) = closeness(maker, **request)
        assert (done["full"], done["reused"], done["missed"]) == (4, 6, 0)
        found.append((closeness_, done["calls_full"], done["calls_reused"]))
        pictures.append(maker.make(cache=ON, **TEN, **request))
    assert psnr(*pictures) > 45
    return found


@pytest.mark.parametrize("size", [1, 3, 8])
def test_each_picture_of_a_batch_is_the_one_made_alone(maker, usual, size):
    found, passes = closeness(maker, batch_size=size)
    assert [(done["full"], done["reused"], done["missed"]) for done in passes] == [(4, 6, 0)]
    assert found > usual - SLACK
    pictures = maker.make(cache=ON, batch_size=size, **TEN)["images"][-size:]
    assert len({pixels(picture).tobytes() for picture in pictures}) == size
    for number, picture in enumerate(pictures):
        assert psnr({"images": [picture]}, maker.make(cache=ON, seed=7 + number, **TEN)) > 45


@pytest.mark.parametrize("size", [512, 344])
def test_hires_fix_from_256(maker, usual, size):
    request = HIRES | {"width": 256, "height": 256, "hr_resize_x": size, "hr_resize_y": size}
    request |= {"hr_second_pass_steps": 10} | TEN
    uncached = maker.make(**request)
    cached = maker.make(cache=ON, **request)
    assert pixels(cached["images"][0]).shape == (size, size, 3)
    assert maker.counts() == [("txt2img", 4, 6), ("hires", 4, 6)]
    assert psnr(cached, uncached) > usual - SLACK


def test_sdxl_with_its_refiner(maker):
    model = {"model": maker.model("SDXL")}
    refiner = {"refiner_checkpoint": maker.model("SDXL refiner"), "refiner_switch_at": 0.5}
    assert not same(maker.make(**TEN, **model), maker.make(**TEN, **model, **refiner))
    found, (done,) = closeness(maker, **model, **refiner)
    assert (done["full"] + done["reused"], done["missed"], done["error"]) == (10, 1, "")
    assert done["full"] <= 5
    assert found > closeness(maker, **model)[0] - SLACK


@pytest.mark.parametrize(("kind", "prediction"), [("SDXL", "eps"), ("SDXL v-prediction", "v")])
def test_what_an_sdxl_checkpoint_predicts(maker, kind, prediction):
    model = maker.model(kind)
    maker.make(cache=ON, model=model, sampler_name="Euler a", **TEN)
    state = maker.state()
    assert (state["checkpoint"], state["prediction"]) == (model, prediction)
    assert maker.counts() == [("txt2img", 4, 6)]


@pytest.mark.parametrize("kind", ["SD2", "inpainting"])
def test_txt2img(maker, usual, kind):
    (one, *calls), (split, *split_calls) = in_one_call_and_split(maker, maker.model(kind))
    assert (calls, split_calls) == ([4, 6], [8, 12])
    assert min(one, split) > usual - SLACK


@pytest.mark.parametrize("kind", ["SD2", "inpainting", "edit"])
@pytest.mark.parametrize("mask", [{}, MASK], ids=["whole", "masked"])
def test_img2img(maker, usual, kind, mask):
    (one, *calls), (split, *split_calls) = in_one_call_and_split(maker, maker.model(kind), **PICTURE, **mask)
    assert (calls, split_calls) == ([4, 6], [8, 12])
    assert min(one, split) > usual - SLACK


def test_instruct_pix2pix_has_three_groups_of_rows(maker, usual):
    request = PICTURE | {"image_cfg_scale": 1.5, "batch_size": 2}
    (one, *calls), (split, *split_calls) = in_one_call_and_split(maker, maker.model("edit"), **request)
    assert (calls, split_calls) == ([4, 6], [12, 18])
    assert min(one, split) > usual - SLACK


@pytest.mark.parametrize(
    ("passes", "wanted"),
    [(["txt2img"], {}), (["img2img"], PICTURE), (["txt2img", "hires"], HIRES)],
    ids=["txt2img", "img2img", "hires fix"],
)
def test_sd3_is_made_without_caching_and_says_so(maker, passes, wanted):
    """Its checkpoints have a transformer in the place of the U-Net."""
    request = {"model": maker.model("SD3")} | wanted
    uncached = maker.make(**request)
    made = maker.make(cache=EVERY_THIRD, **request)
    assert same(made, uncached)
    assert not same(made, maker.make(cache=EVERY_THIRD, **request | {"prompt": "a boat"}))
    reason = made["info"]["extra_generation_params"]["DeepCache not used"]
    assert reason.startswith("MMDiT has no U-Net with input_blocks, middle_block and as many output_blocks")
    assert f'DeepCache not used: "{reason}"' in made["info"]["infotexts"][0]
    assert {done["reason"] for done in maker.last_run()["passes"]} == {reason}
    assert maker.counts() == [(name, 0, 0) for name in passes]
    assert "deepcache_ext" not in " ".join(maker.state()["hooks"])


def test_after_sd3_sd1_is_cached_as_before(maker, alone):
    maker.make(cache=EVERY_THIRD, model=maker.model("SD3"))
    assert same(maker.make(cache=EVERY_THIRD), alone)
    assert maker.counts() == [("txt2img", 3, 5)]


@pytest.mark.parametrize("kind", ["SD1", "SD2", "SDXL", "inpainting"])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE"])
def test_where_noise_is_added_the_forecast_knows_the_checkpoints_noise_levels(maker, kind, sampler):
    request = {"sampler_name": sampler, "model": maker.model(kind)} | TEN
    uncached = maker.make(**request)
    held, forecast = (maker.make(cache=ON | {"forecast": which}, **request) for which in ("off", "on"))
    assert not same(held, forecast)
    assert psnr(forecast, uncached) > psnr(maker.make(seed=8, **request), uncached) + 1
