"""Every sampler of the host."""

from tests.e2e.pictures import same


def test_every_sampler_makes_the_same_picture_twice_and_is_counted_right(maker):
    names = [sampler["name"] for sampler in maker.server.get("/sdapi/v1/samplers")]
    assert len(names) > 15
    wrong = {}
    for name in names:
        one = maker.make(cache={"interval": 3}, sampler_name=name)
        ((_, full, reused),) = maker.counts()
        (evaluations,) = maker.state()["evaluations"]
        other = maker.make(cache={"interval": 3}, sampler_name=name)
        maker.state()
        planned = -(-evaluations // 3)
        if not same(one, other) or full + reused != evaluations or full != planned:
            wrong[name] = (same(one, other), full, reused, evaluations)
    assert wrong == {}
