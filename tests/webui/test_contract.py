"""The stand-in keeps the contract that the real host is held to in tests/e2e."""

from tests.webui import deepcache_contract


def test_the_stand_in_keeps_the_contract():
    results = deepcache_contract.results()
    assert len(results) == 11
    assert set(results.values()) == {True}, results
