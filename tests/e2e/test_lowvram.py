"""Under --lowvram a block's weights are sent to the device when it is called: skipped blocks stay where they are."""

import pytest

from tests.e2e.pictures import Maker, psnr, same
from tests.e2e.server import serving

pytestmark = pytest.mark.usefixtures("a1111")
STEPS = 10


@pytest.fixture(scope="module", params=["--lowvram", "--medvram"])
def flag(request):
    return request.param


@pytest.fixture(scope="module")
def maker(webui, tmp_path_factory, flag):
    with serving(webui, tmp_path_factory.mktemp("lowvram"), flag) as running:
        yield Maker(running)


def moves(maker, cache):
    maker.state()
    maker.make(cache=cache, steps=STEPS)
    return maker.state()["moves"]


def test_skipped_blocks_are_not_moved(maker, flag):
    maker.make(steps=1)
    uncached = moves(maker, None)
    cached = moves(maker, {"interval": 5, "depth": 1})
    assert maker.counts() == [("txt2img", 2, 8)]
    print(f"{flag}: {uncached} moves uncached, {cached} cached")
    if flag == "--lowvram":
        assert uncached >= STEPS * 24
        assert cached < 0.35 * uncached
    else:
        assert cached <= uncached


def test_without_any_block_only_the_full_evaluations_move_weights(maker, flag):
    maker.make(steps=1)
    cached = moves(maker, {"interval": 5, "depth": 0})
    assert maker.counts() == [("txt2img", 2, 8)]
    print(f"{flag}, depth 0: {cached} moves")
    if flag == "--lowvram":
        assert cached < moves(maker, {"interval": 5, "depth": 1})


def test_the_picture_is_the_same_again(maker):
    one = maker.make(cache={"interval": 3}, steps=STEPS)
    assert same(one, maker.make(cache={"interval": 3}, steps=STEPS))
    assert same(maker.make(cache={"interval": 1}, steps=STEPS), maker.make(steps=STEPS))


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Euler a"])
def test_reuses_are_corrected_though_weights_move(maker, sampler):
    request = {"steps": 20, "width": 64, "height": 64, "sampler_name": sampler, "scheduler": "Karras", "batch_size": 4}
    cache = {"preset": "Balanced"}
    uncached, cached = maker.make(**request), maker.make(cache=cache, **request)
    (done,) = maker.last_run()["passes"]
    assert same(cached, maker.make(cache=cache, **request))
    usual = psnr(maker.make(cache=cache | {"correction": "off"}, **request), uncached)
    print(f"{sampler}: {psnr(cached, uncached):.1f} dB, {usual:.1f} without corrections")
    assert (done["depth"], done["reason"]) == (0, "")
    assert (done["statistics"]["corrected"], done["statistics"]["uncorrected"]) == (9, 0)
    assert psnr(cached, uncached) > usual - 1
