"""Off means off."""

import pytest

from tests.e2e.pictures import plain_requests, same

KINDS = ("txt2img", "img2img", "hires fix", "SDXL")


@pytest.fixture(params=KINDS)
def case(request, plain, maker):
    if request.param not in plain:
        pytest.skip(f"the WebUI has no {request.param} checkpoint")
    return plain[request.param], plain_requests(maker)[request.param]


def test_off_gives_the_very_file_of_a_host_without_the_extension(case, maker):
    expected, request = case
    assert maker.make(**request)["images"] == expected["images"]


def test_interval_one_gives_the_very_picture(case, maker):
    expected, request = case
    assert same(maker.make(cache={"interval": 1}, **request), expected)
    assert all(reused == 0 for _, _, reused in maker.counts())


def test_on_gives_another_picture(case, maker):
    expected, request = case
    assert not same(maker.make(cache={"interval": 3, "depth": 1}, **request), expected)
    assert all(reused > 0 for _, _, reused in maker.counts())
