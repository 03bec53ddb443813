"""The stand-in keeps the contract that the real host is held to in tests/e2e."""

from modules import sd_models

from tests.webui import deepcache_contract
from tests.webui.support import load_checkpoint


def test_the_stand_in_keeps_the_contract(monkeypatch):
    monkeypatch.setattr(sd_models.model_data, "sd_model", load_checkpoint())
    results = deepcache_contract.results()
    assert len(results) == 15
    assert {name: found for name, found in results.items() if found is not True} == {}
