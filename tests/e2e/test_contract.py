"""The real host keeps the contract that the stand-in is held to in tests/webui."""


def test_the_real_host_keeps_the_contract(maker):
    maker.make()  # with a checkpoint
    results = maker.server.get("/e2e/contract")
    assert len(results) == 15
    assert {name: found for name, found in results.items() if found is not True} == {}
