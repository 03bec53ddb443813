"""The forecast of a feature: a line through its last two refreshes and a response to the input, as far as they held."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from deepcache_ext import NoiseLevels, SamplingPass, Settings
from deepcache_ext.features import forecast
from deepcache_ext.features.store import Call, RowStore
from tests.unit.unets import VIEWS, Case, TaggedUNet


def call(number, time, rows=1, x=None):
    x = torch.zeros(rows, 2, 8, 8) if x is None else x
    return Call(range(number, number + len(x)), x, torch.full((len(x),), float(time)))


def kept(store, number, time, *values, keys=(0,)):
    """Have `store` keep a refresh at `time` of rows with those values from `number` on."""
    walk = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    store.keep(call(number, time, len(values)), {key: walk.clone() for key in keys})


def taken(store, number, time, rows=1):
    found = store.take(call(number, time, rows))
    return None if found is None else found[0][:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("time", "last", "before", "expected"),
    [(700, 800, 900, 1), (750, 800, 900, 0.5), (500, 800, 900, 2), (850, 800, 900, 0), (700, 800, 800, 0)],
    ids=["one distance", "half of one", "no farther than two", "backwards", "no distance"],
)
def test_how_far_a_time_is_ahead(time, last, before, expected):
    kept = forecast.Line().first(torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.tensor([float(before)]))
    kept = forecast.Line().after(kept, torch.zeros(1, 1, 1, 1), torch.zeros(1), torch.tensor([float(last)]))
    assert forecast.reach(torch.tensor([float(time)]), kept["time"], kept["run"]).item() == expected


def test_each_row_follows_its_own_line():
    store = RowStore(forecast.Line())
    kept(store, 0, 900, 1, 10)
    store.start_refresh()
    kept(store, 0, 800, 2, 8)
    assert taken(store, 0, 700, rows=2) == [2.5, 7]
    assert taken(store, 1, 750) == [7.5]


def test_a_row_with_one_refresh_is_held_beside_one_with_two():
    store = RowStore(forecast.Line())
    kept(store, 0, 900, 1)
    store.start_refresh()
    kept(store, 0, 800, 2, 5)
    assert taken(store, 0, 700, rows=2) == [2.5, 5]


def test_a_row_that_a_refresh_left_out_is_not_served_and_starts_anew():
    store = RowStore(forecast.Line())
    kept(store, 0, 900, 1, 1)
    store.start_refresh()
    kept(store, 0, 800, 2)
    assert taken(store, 1, 700) is None
    assert len(store) == 1
    store.start_refresh()
    kept(store, 0, 700, 3, 3)
    assert taken(store, 0, 600, rows=2) == [4, 3]


@pytest.mark.parametrize(("third", "expected"), [(3, 4), (2.5, 2.75), (2, 2), (1, 1)], ids=str)
def test_a_forecast_goes_as_far_as_the_last_one_should_have_gone(third, expected):
    store = RowStore(forecast.Line())
    for time, value in ((900, 1), (800, 2), (700, third)):
        store.start_refresh()
        kept(store, 0, time, value)
    assert taken(store, 0, 600) == [expected]


def test_a_feature_that_has_not_changed_is_held():
    store = RowStore(forecast.Line())
    for time in (900, 800, 700):
        store.start_refresh()
        kept(store, 0, time, 4)
    assert taken(store, 0, 600) == [4]


def test_other_walks_and_other_inputs_are_no_history():
    store = RowStore(forecast.Line())
    kept(store, 0, 900, 1)
    store.start_refresh()
    kept(store, 0, 800, 2, keys=(0, 1))
    assert taken(store, 0, 700) == [2]
    store.start_refresh()
    store.keep(call(0, 0, x=torch.zeros(1, 2, 9, 9)), {0: torch.ones(1, 1, 4, 4)})
    assert taken(store, 0, 700) is None


def test_two_refreshes_are_kept_and_no_more():
    store = RowStore(forecast.Line())
    for time in (900, 800, 700, 600):
        store.start_refresh()
        kept(store, 0, time, 1)
    assert 2 * 16 * 4 < store.nbytes < 2.5 * 16 * 4


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", ["SD1.5", "SDXL"])
def test_a_reuse_is_the_outer_blocks_on_the_forecast_feature(name, view):
    case = Case(name)
    inputs = [case.inputs(seed) for seed in range(3)]
    for number, of_call in enumerate(inputs):
        of_call["timesteps"] = torch.full_like(of_call["timesteps"], 900 - 100 * number)
    case.inputs = lambda seed: inputs[seed]
    before, last = (case.feature(1, seed) for seed in (0, 1))
    settings = Settings(schedule="list", steps=(0, 1))
    with SamplingPass(case.unet, settings, view=view) as run:
        for seed in range(3):
            run.start_evaluation()
            output = case.call(seed)
    assert (run.statistics.full, run.statistics.reused) == (2, 1)
    torch.testing.assert_close(output, case.reuse_by_hand(1, 2, last + 0.5 * (last - before)))


@pytest.mark.parametrize("timesteps", [None, [900, 800], [[900], [800], [700]], 900], ids=str)
def test_a_call_without_a_timestep_for_each_row_is_cached_too(timesteps):
    unet = TaggedUNet()
    forward = unet.forward
    unet.forward = lambda x, _timesteps: forward(x)
    given = None if timesteps is None else torch.tensor(timesteps)
    with SamplingPass(unet, Settings(interval=3), 6, view="compact") as run:
        for step in range(6):
            run.start_evaluation()
            found = unet(torch.full((3, 2, 4, 4), float(step)), given)[:, 0, 0, 0].tolist()
            assert found == [step - step % 3] * 3
    assert (run.statistics.full, run.statistics.reused, run.statistics.error) == (2, 4, "")


def noise(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


RESPONSES = [forecast.LineAndResponse(), forecast.Response(forecast.ITERATIONS_WITH_NOISE)]


def noisy_run(feature, refreshes, rows=1, size=12, predictor=RESPONSES[0]):
    """Return a store with the features of so many refreshes on pure noise, and the rows' next call."""
    store = RowStore(predictor)
    for number in range(refreshes):
        store.start_refresh()
        of_call = call(0, 900 - 100 * number, x=noise(rows, 2, size, size, seed=number))
        store.keep(of_call, {0: feature(of_call.x)})
    return store, call(0, 900 - 100 * refreshes, x=noise(rows, 2, size, size, seed=refreshes))


def missed(feature, refreshes, **run):
    """Return the error of the forecast and that of holding the last feature."""
    store, following = noisy_run(feature, refreshes, **run)
    wanted = feature(following.x)
    held = feature(noise(*following.x.shape, seed=refreshes - 1))
    return (store.take(following)[0] - wanted).norm().item(), (held - wanted).norm().item()


CONVOLUTION = noise(5, 2, 3, 3, seed=99)


def convolved(x):
    return functional.conv2d(x, CONVOLUTION, padding=1) + 7


@pytest.mark.parametrize("refreshes", [2, 4])
@pytest.mark.parametrize("predictor", RESPONSES, ids=type)
def test_in_a_noisy_run_a_feature_follows_the_input(predictor, refreshes):
    forecast_error, held_error = missed(convolved, refreshes, predictor=predictor)
    assert forecast_error < 0.25 * held_error


@pytest.mark.parametrize("predictor", RESPONSES, ids=type)
def test_a_feature_of_half_the_size_follows_the_input_too(predictor):
    def halved(x):
        return functional.avg_pool2d(convolved(x), 2)

    forecast_error, held_error = missed(halved, 2, predictor=predictor)
    assert forecast_error < 0.8 * held_error


def test_what_does_not_follow_the_input_is_about_held():
    values = iter(noise(20, 5, 48, 48, seed=5))

    def unrelated(_x):
        return next(values)[None]

    store, following = noisy_run(unrelated, 3, size=48)
    held = noise(20, 5, 48, 48, seed=5)[2]
    assert (store.take(following)[0] - held).norm() < 0.1 * held.norm()


def test_each_row_follows_its_own_input():
    both, following = noisy_run(convolved, 2, rows=2)
    found = both.take(following)[0]
    one = both.take(Call(range(1, 2), following.x[1:], following.times[1:]))[0]
    torch.testing.assert_close(found[1:], one)


def test_without_added_noise_nothing_follows_the_input():
    store = RowStore(forecast.Line())
    for number in range(2):
        store.start_refresh()
        store.keep(call(0, 900 - 100 * number, x=noise(1, 2, 8, 8, seed=number)), {0: torch.full((1, 1, 8, 8), 3.0)})
    assert store.take(call(0, 700, x=noise(1, 2, 8, 8, seed=2)))[0].unique().tolist() == [3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_follow_the_input(dtype):
    error, held = missed(lambda x: convolved(x.float()).to(dtype).float(), 2)
    assert error < 0.2 * held


def test_the_amd_forks_own_autocast_does_not_touch_the_fit_either(monkeypatch):
    directml = SimpleNamespace(is_autocast_enabled=True)
    monkeypatch.setattr(torch, "dml", directml, raising=False)
    with forecast._own_precision(torch.device("privateuseone")):
        assert not directml.is_autocast_enabled
    assert directml.is_autocast_enabled


def test_a_hosts_autocast_does_not_touch_the_fit():
    with torch.autocast("cpu", torch.bfloat16):
        rounded, following = noisy_run(convolved, 3)
        found = rounded.take(following)[0]
    exact, _ = noisy_run(convolved, 3)
    kept_, exactly = (store._places[0][0].kept[0] for store in (rounded, exact))
    assert found.dtype == kept_["feature"].dtype
    assert kept_["trusted response"].dtype == kept_["feature"].dtype
    wanted = exact.take(following)[0]
    assert (found - wanted).norm() < 0.02 * wanted.norm()
    torch.testing.assert_close(kept_["response"].float(), exactly["response"], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("predictor", RESPONSES, ids=type)
def test_large_half_precision_features_do_not_overflow_the_fit(predictor):
    def large(x):
        return (300 * convolved(x)).to(torch.float16)

    store, following = noisy_run(large, 3, size=32, predictor=predictor)
    wanted = large(following.x)
    assert torch.isfinite(store.take(following)[0]).all()
    assert (store.take(following)[0].float() - wanted.float()).norm() < 0.2 * wanted.float().norm()


def test_a_feature_that_is_not_a_number_is_not_forecast_from():
    store = RowStore(forecast.Line())
    for time, value in ((900, 1), (800, 2), (700, float("nan")), (600, 5)):
        store.start_refresh()
        kept(store, 0, time, value)
    assert store._places[0][0].kept[0]["trust"].item() == 0


ROWS_APART = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.003}


@pytest.mark.parametrize("dtype", ROWS_APART, ids=str)
@pytest.mark.parametrize("predictor", [forecast.Held(), forecast.Line(), *RESPONSES], ids=type)
def test_rows_do_not_influence_each_other(predictor, dtype):
    """Each row alone gives what it gives among others that are much larger, or not numbers at all."""

    def expected(rows):
        store = RowStore(predictor, levels=NoiseLevels(torch.linspace(0.999, 0.005, 1000)))
        for number in range(4):
            x = (noise(4, 2, 12, 12, seed=number) * torch.tensor([1, 30, 1, 1]).view(-1, 1, 1, 1))[rows]
            feature = (convolved(x) + noise(4, 5, 12, 12, seed=50 + number)[rows]).to(dtype)
            if 2 in rows:
                feature[rows.index(2)] = torch.nan
            of_call = Call(rows, x.to(dtype), torch.tensor([900.0, 800, 700, 600])[rows] - 90 * number)
            if number == 3:
                output = noise(4, 2, 12, 12, seed=60)[rows].to(dtype)
                return store.take(of_call)[0], store.drawn(of_call, output)
            store.start_refresh()
            store.keep(of_call, {0: feature}, noise(4, 2, 12, 12, seed=40 + number)[rows].to(dtype))
        return None

    together = expected([0, 1, 2, 3])
    for row in (0, 1, 3):
        for found, alone in zip(together, expected([row]), strict=True):
            assert found.dtype == dtype
            apart = (found[row] - alone[0]).float().norm() / alone.float().norm()
            assert apart < ROWS_APART[dtype]


@pytest.mark.parametrize("predictor", [forecast.Line(), *RESPONSES], ids=type)
def test_one_time_for_all_rows_is_as_good_as_one_for_each(predictor):
    """Among four refreshes are two at one time, as Heun's stages, and the last reuse is beyond what is forecast."""
    levels = NoiseLevels(torch.linspace(0.999, 0.005, 1000))

    def served(times_of):
        store = RowStore(predictor, levels=levels)
        for number, time in enumerate((900.0, 800.0, 800.0, 720.5)):
            x, output = (noise(2, 2, 12, 12, seed=seed + number) for seed in (0, 20))
            store.start_refresh()
            store.keep(Call(range(2), x, times_of(time)), {0: convolved(x)}, output)
        found = []
        for time in (700.0, 800.0, 100.0):
            of_call = Call(range(2), noise(2, 2, 12, 12, seed=9), times_of(time))
            found += [store.take(of_call)[0], store.drawn(of_call, noise(2, 2, 12, 12, seed=8))]
            found.append(store.between(of_call, of_call.x, times_of(760.0)))
        return found

    for one, each in zip(served(float), served(lambda time: torch.full((2,), time)), strict=True):
        torch.testing.assert_close(one, each, rtol=1e-3, atol=1e-3)


def test_rows_of_different_histories_are_each_served_by_their_own():
    """One row is new since the last refresh, one since the one before; calls are cut anew each time."""
    store = RowStore(forecast.Line())
    kept(store, 0, 900, 1, 10)
    store.start_refresh()
    kept(store, 1, 800, 8, 100)
    kept(store, 0, 800, 2)
    store.start_refresh()
    kept(store, 0, 700, 3, 6, 90, 5)
    assert taken(store, 0, 600, rows=4) == [4, 4, 85, 5]
    assert taken(store, 1, 650, rows=3) == [5, 87.5, 5]
    store.start_refresh()
    kept(store, 3, 600, 4)
    kept(store, 0, 600, 4, 4, 80)
    assert taken(store, 0, 500, rows=4) == [5, 2, 70, 3.5]
