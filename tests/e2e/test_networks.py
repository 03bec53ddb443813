"""Textual inversion and hypernetworks: the cached picture is as close as without, and the network shows in it."""

import pytest

from tests.e2e.pictures import closeness, same
from tests.e2e.test_combinations import ON, SLACK, TEN

WORDS = "red castle in snow"
INIT = {"layer_structure": [1, 2, 1], "activation_func": "relu", "weight_init": "XavierNormal"}


@pytest.fixture(scope="module")
def embedding(webui, maker):
    """Return the name of an embedding that stands for WORDS."""
    maker.make(steps=1)
    (maker.server.log.parent / "embeddings").mkdir(exist_ok=True)
    body = {"name": "e2ewords", "num_vectors_per_token": 4, "overwrite_old": False, "init_text": WORDS}
    status, answer = maker.server.request("/sdapi/v1/create/embedding", body)
    if webui.forge and status != 200:
        pytest.skip(f"{webui.name}'s API makes no embeddings")
    assert status == 200, answer
    return body["name"]


@pytest.fixture(scope="module")
def hypernetwork(maker):
    """Return the name of a random hypernetwork on the prompt's width."""
    body = {"name": "e2enetwork", "enable_sizes": [768], "overwrite_old": False} | INIT
    maker.server.post("/sdapi/v1/create/hypernetwork", body)
    return body["name"]


@pytest.mark.parametrize("prompt", ["a house, {}", "a house " + "({}:1.2), " * 20], ids=["short", "long"])
def test_textual_inversion(maker, embedding, prompt):
    named, spelled = prompt.replace("{}", embedding), prompt.replace("{}", WORDS)
    cached = maker.make(cache=ON, prompt=named, **TEN)
    assert f'TI hashes: "{embedding}:' in cached["info"]["infotexts"][0]
    assert same(cached, maker.make(cache=ON, prompt=spelled, **TEN))
    assert not same(cached, maker.make(cache=ON, prompt=prompt.replace("{}", ""), **TEN))
    assert closeness(maker, prompt=named)[0] > closeness(maker, prompt=spelled)[0] - SLACK


@pytest.mark.usefixtures("a1111")
def test_a_hypernetwork_also_changed_between_generations(maker, usual, hypernetwork):
    prompt = f"a house by the sea <hypernet:{hypernetwork}:1>"
    before = maker.make(cache=ON, **TEN)
    cached = maker.make(cache=ON, prompt=prompt, **TEN)
    assert not same(cached, before)
    assert closeness(maker, prompt=prompt)[0] > usual - SLACK
    assert closeness(maker, prompt=f"a house by the sea <hypernet:{hypernetwork}:-0.5>")[0] > usual - SLACK
    assert same(maker.make(cache=ON, prompt=prompt, **TEN), cached)
    assert same(maker.make(cache=ON, **TEN), before)
