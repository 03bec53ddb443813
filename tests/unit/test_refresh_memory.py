"""What a refresh takes beside what it keeps: little, and no copy of a feature."""

import gc
from dataclasses import replace

import pytest
import torch

from bench.memory import Network
from bench.parts.allocated import Allocated
from bench.parts.networks import NETWORKS
from deepcache_ext import NoiseLevels, SamplingPass, Settings
from deepcache_ext.features.forecast import Line, LineAndResponse
from deepcache_ext.features.store import Call, RowStore
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel

STEPS = 6
LEVELS = NoiseLevels(torch.linspace(0.999, 0.01, 1000))


def refresh(store, number, rows, dtype):
    """Keep features as wide as SD1's and SDXL's."""
    noise = torch.Generator().manual_seed(number)
    x, feature, output = (torch.randn(rows, of, 48, 48, generator=noise).to(dtype) for of in (4, 320, 4))
    call = Call(range(rows), x, torch.full((rows,), 900.0 - 100 * number))
    store.start_refresh()
    with torch.no_grad(), Allocated() as allocated:
        store.keep(call, {0: feature}, output)
    return allocated.peak


@pytest.mark.parametrize(("predictor", "part"), [(Line(), 0.15), (LineAndResponse(), 0.3)], ids=["line", "response"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_refresh_works_in_the_place_of_the_one_before(predictor, part, dtype):
    store = RowStore(predictor, levels=LEVELS)
    LEVELS.scales(torch.zeros(1))  # its table, made once for each checkpoint
    for number in range(2):
        refresh(store, number, 2, dtype)
    assert refresh(store, 2, 2, dtype) < part * store.nbytes
    assert len(store) == 2


@pytest.mark.parametrize("depth", [0, 1])
def test_at_its_peak_a_run_takes_what_it_keeps_and_a_tenth_of_that(depth):
    taken = Network("SDXL", 8).measure("Euler a", depth)
    assert 0.9 * taken.kept < taken.cached - taken.untouched < 1.1 * taken.kept


def test_what_is_allocated_is_counted_once_and_until_it_is_dropped():
    with Allocated() as allocated:
        one = torch.zeros(1000)
        view = one[:500]
        other = one + 1
        del one
        assert allocated.now == 8000
        del view, other
        assert allocated.now == 0
    assert allocated.peak == 8000


@pytest.mark.parametrize("view", ["compact", "full-length"])
@pytest.mark.parametrize("sampler", ["Euler", "Euler a"])
def test_no_feature_waits_for_the_garbage_collector(view, sampler):
    network, model, sampled = NETWORKS["SDXL"], TinyModel(), SAMPLERS[sampler]
    unet, asked = network.build(small=True), sampled.ask(model, STEPS)
    kind = replace(sampled.kind, pays_back=asked.kind.pays_back)
    settings = Settings(interval=2, depth=0)
    gc.collect()
    gc.disable()
    try:
        with SamplingPass(unet, settings, STEPS, sampler=kind, run=asked, levels=model.levels, view=view) as run:
            for number in range(STEPS):
                inputs = network.inputs(unet, 2, latent=24, seed=number)
                inputs["timesteps"].fill_(999 - 100 * number)
                run.start_evaluation()
                with torch.no_grad():
                    unet(**inputs)
            assert run.statistics.reused == STEPS // 2
            assert len(features()) == 2  # the last one and its change
    finally:
        gc.enable()


def features():
    """Return the storages of all tensors that are as large as a feature."""
    found = (thing for thing in gc.get_objects() if type(thing) is torch.Tensor)
    return {one.untyped_storage().data_ptr() for one in found if one.shape == (2, 32, 24, 24)}
