"""A reuse calls no layer of the skipped blocks.

Hosts that keep weights elsewhere move them to the device layer by layer, when a layer is called: those of the skipped
blocks stay where they are.
"""

import pytest


def layers(maker, steps, cache=None):
    """Return how many layers with weights a picture takes, and how many a reuse at depth 0, 1, ... must call."""
    maker.state()
    maker.make(cache=cache, steps=steps, width=64, height=64)
    state = maker.state()
    return state["layers"], state["outer_layers"]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_reuse_calls_the_outer_layers_alone(maker, depth):
    maker.make(steps=1)
    (two, _), (four, _) = layers(maker, 2), layers(maker, 4)
    cached, outer = layers(maker, 10, {"interval": 5, "depth": depth, "correction": "off"})
    assert maker.counts() == [("txt2img", 2, 8)]
    full, reuse = (four - two) / 2, (cached - two) / 8
    print(f"depth {depth}: a full evaluation calls {full:g} layers, a reuse {reuse:g}")
    assert reuse == outer[depth]
    assert reuse < 0.4 * full
