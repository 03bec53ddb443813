"""A network that becomes another in mid-run: a jump is made in full, what changes at every step goes on as planned."""

import pytest
import torch

from bench.parts.networks import NETWORKS
from deepcache_ext import SamplerKind, SamplingPass, Settings
from tests.unit.unets import TaggedUNet, state_of

SIX = Settings(interval=6, depth=1, forecast="off")


def run(settings, change, *, steps=10, stages=1, unet=None, during_calls=False):
    """Return from which evaluation each one's feature came, and the statistics.

    `change(step)` is what is in force at an evaluation, once it has begun.
    """
    unet = unet or TaggedUNet()
    before = state_of(unet)
    now = {}
    if during_calls:
        unet.input_blocks[0].register_forward_pre_hook(lambda *_: change(now["step"]) and None)
    answers = []
    with SamplingPass(unet, settings, total=steps, sampler=SamplerKind(stages=stages)) as passing:
        for step in range(steps):
            passing.start_evaluation(keys=["a"], in_force=lambda: now["value"])
            now["step"] = step
            now["value"] = None if during_calls else change(step)
            answers.append(int(unet(torch.full((1, 2, 4, 4), float(step)))[0, 0, 0, 0]))
        found = passing.statistics
    if not during_calls:
        assert state_of(unet) == before
    return answers, found


@pytest.mark.parametrize("at", range(1, 10))
def test_a_jump_is_made_in_full(at):
    answers, found = run(SIX, lambda step: step >= at)
    expected = [0] * 6 + [6] * 4
    assert answers == [max(origin, at) if step >= at else origin for step, origin in enumerate(expected)]
    assert found.switched == (at != 6)


def test_a_line_begins_anew_and_needs_two():
    settings = Settings(interval=6, depth=1)
    in_full = [step for step, origin in enumerate(run(settings, lambda _: 0)[0]) if origin == step]
    answers, found = run(settings, lambda step: step >= 2)
    assert [step for step in range(10) if answers[step] == step] == sorted({*in_full, 2, 3})
    assert found.switched == 2


def test_a_ramp_goes_on_as_planned():
    answers, found = run(SIX, lambda step: min(step, 8))
    assert answers == [0] + [1] * 5 + [6] * 4
    assert found.switched == 1


def test_a_ramp_that_moves_with_every_step_of_two_stages_goes_on_as_planned():
    plain, _ = run(SIX, lambda _: 0, steps=20, stages=2)
    answers, found = run(SIX, lambda step: step // 2, steps=20, stages=2)
    assert answers == [origin if step < 2 or origin > 2 else 2 for step, origin in enumerate(plain)]
    assert found.switched == 1


def test_what_is_written_into_a_weight_between_two_calls_is_a_jump():
    unet = TaggedUNet()
    weight = torch.nn.Parameter(torch.zeros(3, 3))
    unet.middle_block.register_parameter("merged", weight)

    def merge(step):
        if step == 4:
            with torch.no_grad():
                weight.add_(1.0)

    assert run(SIX, merge, unet=unet)[0] == [0] * 4 + [4] * 2 + [6] * 4


def test_weights_that_somebody_has_put_in_place_of_others_are_watched_too():
    unet = TaggedUNet()
    unet.middle_block.register_parameter("merged", torch.nn.Parameter(torch.zeros(3, 3)))

    def merge(step):
        if step == 2:
            unet.middle_block.merged = torch.nn.Parameter(torch.ones(3, 3))
        if step == 8:
            with torch.no_grad():
                unet.middle_block.merged.add_(1.0)

    answers, found = run(SIX, merge, unet=unet)
    assert answers == [0, 0, 2, 2, 2, 2, 6, 6, 8, 8]
    assert found.switched == 2


@pytest.mark.parametrize("kind", ["attn1.to_q", "attn1.to_out.0", "attn2.to_k", "ff.net.0.proj", "in_layers.2"])
@pytest.mark.parametrize("network", ["SD1.5", "SDXL"])
def test_what_is_merged_into_one_kind_of_layer_is_seen_at_once(network, kind):
    unet = NETWORKS[network].build(small=True)
    merged = [weight for name, weight in unet.named_parameters() if name.endswith(f"{kind}.weight")]
    assert len(merged) >= 16
    for at in range(1, 10):
        inputs = NETWORKS[network].inputs(unet, 1, latent=8)
        with SamplingPass(unet, Settings(interval=30, depth=1, forecast="off"), total=12) as passing, torch.no_grad():
            for step in range(12):
                if step == at:
                    torch._foreach_add_(merged, 1e-3)
                passing.start_evaluation(keys=["a"])
                unet(**inputs)
            assert (passing.statistics.full, passing.statistics.switched) == (2, 1)


def test_what_is_written_during_a_call_is_the_hosts_and_none():
    unet = TaggedUNet()
    weight = torch.nn.Parameter(torch.zeros(3, 3))
    unet.middle_block.register_parameter("merged", weight)

    def apply(step):
        if step in {0, 4}:
            with torch.no_grad():
                weight.add_(1.0)

    assert run(SIX, apply, unet=unet, during_calls=True)[0] == [0] * 6 + [6] * 4


def test_weights_that_count_no_writes_are_no_error():
    unet = TaggedUNet()
    with torch.inference_mode():
        unet.middle_block.register_parameter("merged", torch.nn.Parameter(torch.zeros(3, 3)))
    assert run(SIX, lambda _: 0, unet=unet)[0] == [0] * 6 + [6] * 4


def test_another_network_is_another_beginning():
    first, second = TaggedUNet(), TaggedUNet()
    with SamplingPass(first, SIX, total=4) as passing:
        for step, unet in enumerate((first, first, second, second)):
            if step == 2:
                passing.move(second)
            passing.start_evaluation(keys=["a"], in_force=lambda unet=unet: unet is second)
            unet(torch.zeros(1, 2, 4, 4))
        assert (passing.statistics.switched, passing.statistics.reused) == (0, 2)


def test_an_error_in_counting_ends_caching_and_the_call_goes_on(monkeypatch):
    def fails(_weight):
        raise RuntimeError("no count")

    unet = TaggedUNet()
    unet.middle_block.register_parameter("merged", torch.nn.Parameter(torch.zeros(3, 3)))
    monkeypatch.setattr("deepcache_ext.network.in_force._VERSION", fails)
    answers, found = run(SIX, lambda _: 0, unet=unet)
    assert answers == [*range(10)]
    assert found.error == "caching stopped at an error, RuntimeError: no count"
