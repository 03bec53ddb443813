"""Every pass of every kind of job: each starts anew and leaves nothing behind."""

import pytest

from tests.e2e.pictures import EVERY_THIRD, HIRES, STEPS, mask_of, picture_of, pixels, same

pytestmark = pytest.mark.usefixtures("_nothing_is_left")
ON = EVERY_THIRD
TXT2IMG = ("txt2img", 3, 5)


def test_hires_fix(maker):
    maker.make(cache=ON, **HIRES, hr_second_pass_steps=6)
    assert maker.counts() == [TXT2IMG, ("hires", 2, 4)]
    maker.make(cache=ON | {"hires_interval": 2, "hires_depth": 2}, **HIRES, hr_second_pass_steps=6)
    assert maker.counts() == [TXT2IMG, ("hires", 3, 3)]


def test_hires_fix_off(maker):
    request = HIRES | {"hr_second_pass_steps": 6}
    maker.make(cache=ON | {"hires": "off"}, **request)
    assert [done["reason"] for done in maker.last_run()["passes"]] == ["", "switched off for this pass"]
    assert maker.counts()[1] == ("hires", 0, 0)


def test_hires_fix_with_its_own_sampler_and_checkpoint(maker):
    other = maker.model("SD1", but=maker.model("SD1"))
    request = HIRES | {"hr_sampler_name": "Heun", "hr_checkpoint_name": other, "hr_second_pass_steps": 5}
    one = maker.make(cache=ON, **request)
    passes = maker.last_run()["passes"]
    assert [done["sampler"] for done in passes] == ["Euler", "Heun"]
    assert maker.counts() == [TXT2IMG, ("hires", 4, 5)]
    assert same(one, maker.make(cache=ON, **request))
    assert not same(one, maker.make(cache=ON, **HIRES, hr_sampler_name="Heun", hr_second_pass_steps=5))


def test_img2img(maker):
    maker.make("img2img", ON, init_images=[picture_of()], denoising_strength=0.5)
    assert maker.counts() == [("img2img", 2, 3)]


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_inpainting(maker, sampler):
    request = {"init_images": [picture_of()], "mask": mask_of(), "denoising_strength": 0.9, "sampler_name": sampler}
    maker.make("img2img", ON, **request)  # Forge's family draws a mask's noise from where the last job has left off
    maker.state()
    one = maker.make("img2img", ON, **request)
    ((_, full, reused),) = maker.counts()
    assert full + reused == maker.last_run()["passes"][0]["planned"] == maker.state()["evaluations"][-1]
    assert reused > full
    assert same(one, maker.make("img2img", ON, **request))


def test_a_refiner_in_mid_run_starts_from_its_own_features(maker):
    refiner = maker.model("SD1", but=maker.model("SD1"))
    request = {"refiner_checkpoint": refiner, "refiner_switch_at": 0.5}
    one = maker.make(cache={"interval": 8}, **request)
    assert maker.counts() == [("txt2img", 2, 6)]
    assert same(one, maker.make(cache={"interval": 8}, **request))
    assert not same(one, maker.make(cache={"interval": 8}))


def test_batches(maker, alone):
    two = maker.make(cache=ON, batch_size=2, n_iter=2)
    assert maker.counts() == [TXT2IMG] * 2
    pictures = [pixels(picture) for picture in two["images"][-4:]]
    assert abs(pictures[0] - pixels(alone["images"][0])).mean() < 0.5
    assert len({picture.tobytes() for picture in pictures}) == 4


@pytest.mark.parametrize(("scripts", "counts"), [("all scripts", (7, 13)), ("no scripts", (3, 5))])
@pytest.mark.parametrize("inner", [True, False])
def test_jobs_that_another_extension_makes_inside(webui, maker, inner, scripts, counts):
    """With all scripts the host's own sampler script gives the inner job the API's default of twenty steps.

    Forge Classic has no such script.
    """
    counts = (3, 5) if webui.name == "Forge Classic" else counts
    maker.server.post(f"/e2e/want?inner={scripts.replace(' ', '%20')}")
    maker.make(cache=ON | {"inner": inner}, n_iter=2)
    maker.server.post("/e2e/want")
    assert maker.counts() == [TXT2IMG, ("inner img2img", *(counts if inner else (0, 0)))] * 2


def plotted(maker, cache, interval, depth, **request):
    """Return the cells of a plot over two axes of ours."""
    axes = [f"[DeepCache] {name}" for name in ("Interval", "Depth")]
    first, second = (maker.state()["axes"].index(name) for name in axes)
    chosen = {"X type": first, "X values": interval, "Y type": second, "Y values": depth, "Z type": 0}
    chosen |= {"Draw legend": False, "Include Sub Images": True, "Draw individual labels": False}
    infos = maker.server.get("/sdapi/v1/script-info")
    info = next(info for info in infos if info["name"] == "x/y/z plot" and not info["is_img2img"])
    arguments = [chosen.get(argument["label"], argument["value"]) for argument in info["args"]]
    plot = maker.make(cache=cache, script_name="x/y/z plot", script_args=arguments, **request)
    return [{"images": [image]} for image in plot["images"][1:]]


@pytest.mark.parametrize("cache", [ON, None], ids=["on in the panel", "off in the panel"])
def test_the_xyz_plot(maker, alone, cache):
    """Its axes switch their cells on."""
    full, cached = plotted(maker, cache, "1, 3", "1")[-2:]
    assert same(cached, alone)
    assert same(full, maker.make())


@pytest.mark.parametrize("scripts", ["all scripts", "no scripts"])
def test_jobs_inside_a_plots_cell(maker, scripts):
    maker.server.post(f"/e2e/want?inner={scripts.replace(' ', '%20')}")
    plotted(maker, None, "2", "1", n_iter=2)
    maker.server.post("/e2e/want")
    batches = [(full, reused) for name, full, reused in maker.counts() if name == "txt2img"]
    assert batches == [(4, 4)] * 2
    assert all(reused >= full > 0 for _, full, reused in maker.counts())


def test_an_exception_inside_the_unet(maker):
    maker.server.post("/e2e/want?raise_at=5")
    status, _ = maker.server.request(
        "/sdapi/v1/txt2img",
        {"steps": STEPS, "width": 128, "height": 128, "alwayson_scripts": {"DeepCache": {"args": [{"enabled": True}]}}},
    )
    assert status == 500
    assert "deepcache_ext" not in " ".join(maker.state()["hooks"])
