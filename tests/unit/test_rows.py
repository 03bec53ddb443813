"""No row ever gets another row's feature, whoever decides what a U-Net call is given."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.launches import READ_BACK, Operations
from deepcache_ext import Action, SamplingPass, Settings
from deepcache_ext.features.rows import Batch, Rows
from deepcache_ext.statistics import NOTHING_FITTED, NOTHING_KEPT, OTHERS, SWITCHED
from tests.unit.unets import TaggedUNet

KINDS = ("cond", "uncond")


def x_of(rows, size=4):
    return torch.zeros(rows, 2, size, size)


@pytest.mark.parametrize("calls", [[5], [2, 2, 1], [3, 2], [4, 1]], ids=str)
def test_the_hosts_own_cuts_of_three_conds_and_two_unconds_are_told(calls):
    rows = Rows("abcde", Batch(2, (4, 4)))
    assert [key for count in calls for key in rows.next(x_of(count))] == [*"abcde"]
    assert rows.complete


@pytest.mark.parametrize(
    "calls",
    [[3], [2, 3], [6], [1], [4, 1]],
    ids=["half a batch", "across a batch", "too many", "too few", "half beyond"],
)
def test_other_cuts_are_not_told(calls):
    rows = Rows("abcd", Batch(2, (4, 4)))
    *before, last = [rows.next(x_of(count)) for count in calls]
    assert all(before)
    assert last == ()


def test_a_tile_is_not_told():
    assert Rows("ab", Batch(1, (4, 4))).next(x_of(2, size=3)) == ()


def test_what_comes_after_all_rows_is_told_by_its_place():
    found = []
    for keys in ("ab", "a"):  # the second evaluation leaves something out
        rows = Rows(keys, Batch(1, (4, 4)))
        rows.next(x_of(len(keys)))
        found.append([*rows.next(x_of(1)), *rows.next(x_of(1))])
    assert found[0] == found[1]
    assert len(set(found[0])) == 2


def test_fewer_rows_than_keys_are_noticed():
    rows = Rows("ab", Batch(1, (4, 4)))
    assert rows.complete
    rows.next(x_of(1))
    assert not rows.complete


def test_who_has_to_say_and_does_not_is_somebody_else():
    rows = Rows("ab", Batch(1, (4, 4)))
    assert rows.next(x_of(1), None, must_say=True) == ()
    rows = Rows("ab", Batch(1, (4, 4)))
    assert rows.next(x_of(2), "ba", must_say=True) == "ba"
    assert rows.next(x_of(1), None, must_say=True) == [("after", 0)]


@pytest.mark.parametrize(("said", "rows"), [("aa", 2), ("c", 1), ("ab", 1), ("a", 2)])
def test_what_is_said_has_to_be_true(said, rows):
    assert Rows("ab").next(x_of(rows), said) == ()


def test_each_row_has_a_key_of_its_own():
    with pytest.raises(ValueError, match=r"each row must have a key of its own; got \['a', 'a'\]"):
        Rows("aa")


def noise(pictures, seed=0):
    return torch.randn(pictures, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("picked", "told"), [([0, 1, 2, 3], True), ([1, 2, 3, 0], False), ([0, 1, 0, 1], False)], ids=str
)
def test_without_keys_the_first_of_several_calls_has_to_show_its_pictures(picked, told):
    x = noise(4)
    rows = Rows(None, Batch.of(x), before=8)
    assert (len(rows.next(0.3 * x[picked])) == 4) == told


def test_nobody_looks_where_one_call_is_for_all_rows():
    x = noise(4)
    with Operations() as operations:
        assert len(Rows(None, Batch.of(x), before=8).next(torch.cat([x, x]))) == 8
        assert len(Rows(None, Batch.of(x), before=None).next(x)) == 4
        assert len(Rows("abcd", Batch(4, (4, 4)), before=8).next(x)) == 4
    assert not READ_BACK & operations.counts.keys()


@st.composite
def evaluations(draw):
    """Draw a run: how many pictures, and for each evaluation its keys, its calls' keys, whose they are, the size."""
    pictures, windowed = draw(st.integers(2, 5)), draw(st.booleans())
    found = []
    for _ in range(draw(st.integers(3, 8))):
        kinds = draw(st.sampled_from([KINDS, KINDS, KINDS[:1]]))
        prompt = draw(st.sampled_from([0, 0, 0, 1]))
        keys = [(kind, picture, prompt) for kind in kinds for picture in range(pictures)]
        jitter = draw(st.sampled_from([0, 0, 0, 1]))
        if windowed:
            length = draw(st.integers(1, pictures - 1))
            first, stride = draw(st.integers(0, pictures - 1)), draw(st.integers(1, length))
            starts = draw(st.permutations(range(first, first + pictures, stride)))  # every picture is in one of them
            windows = [[(start + place) % pictures for place in range(length)] for start in starts]
            calls = [[(kind, one, prompt) for kind in kinds for one in window] for window in windows]
        else:
            count = draw(st.sampled_from([len(keys), pictures]))
            calls = [keys[first : first + count] for first in range(0, len(keys), count)]
        found.append((keys, calls, windowed or jitter > 0, 4 - jitter))
    return pictures, found


@given(evaluations(), st.sampled_from(["keys", "said", "silent"]), st.integers(2, 4), st.sampled_from(["off", "on"]))
def test_no_row_gets_another_rows_feature(run, caller, interval, forecast):
    """The feature of a TaggedUNet is its input, which is each row's own and stays the same."""
    pictures, drawn = run
    unet = TaggedUNet()
    # of a picture's kinds and prompts the inputs are nearly the same, as they are in a host
    own = {
        (kind, picture, prompt): picked + 0.01 * number + 0.02 * prompt
        for number, kind in enumerate(KINDS)
        for picture, picked in enumerate(noise(pictures))
        for prompt in range(2)
    }
    with SamplingPass(unet, Settings(interval=interval, forecast=forecast)) as cached:
        for keys, calls, foreign, size in drawn:
            if caller == "silent":  # it has neither prompts that change nor kinds that are left out in the middle
                calls = [[(kind, picture, 0) for kind, picture, _ in call] for call in calls]  # noqa: PLW2901
            given_keys = None if caller == "silent" else keys
            cached.start_evaluation(keys=given_keys, batch=Batch(pictures, (4, 4), noise(pictures)))
            for call in calls:
                if caller == "said":
                    cached.say(None if foreign else call)
                x = torch.stack([own[key][..., :size, :size] for key in call])
                out = unet(x)
                assert torch.equal(out[:, :2], out[:, 2:])
            assert cached.statistics.others or not foreign or cached.statistics.reused == 0
    assert cached.statistics.error == ""


def keyed(unet, keys, settings=Settings(interval=3), total=None):  # noqa: B008 - settings do not change
    """Make a pass of one-call evaluations with those keys and return from which evaluation each row's feature came."""
    found = []
    with SamplingPass(unet, settings, total) as run:
        for evaluation, of in enumerate(keys):
            run.start_evaluation(keys=of)
            found.append([int(value) for value in unet(torch.full((len(of), 2, 4, 4), float(evaluation)))[:, 0, 0, 0]])
    return found, run.statistics


def test_rows_are_told_by_their_keys_wherever_they_are():
    """Unconds first, left out, and back: as on hosts that have them in that order."""
    found, statistics = keyed(TaggedUNet(), ["uc", "c", "cu", "uc"], Settings(interval=4, forecast="off"))
    assert found == [[0, 0], [0], [0, 0], [0, 0]]
    assert (statistics.reused, statistics.missed) == (3, 0)


def test_a_prompt_that_changes_is_computed_in_full_and_twice_for_a_line():
    for forecast, expected in (("off", [0, 0, 2, 2, 2, 2]), ("on", [0, 0, 2, 3, 3, 3])):
        found, statistics = keyed(TaggedUNet(), ["au"] * 2 + ["bu"] * 4, Settings(interval=6, forecast=forecast))
        assert [row for row, _ in found] == [row for _, row in found] == expected
        assert (statistics.switched, statistics.reason) == (1 + (forecast == "on"), "")


def test_prompts_that_take_turns_are_never_mixed_up():
    found, statistics = keyed(TaggedUNet(), ["au", "bu"] * 4, Settings(interval=4, forecast="off"))
    assert [row for row, _ in found] == [0, 1, 0, 1, 4, 5, 4, 5]
    found, statistics = keyed(TaggedUNet(), ["au", "bu"] * 4, Settings(interval=2))
    assert [row for row, _ in found] == [*range(8)]
    assert statistics.reason == SWITCHED


def test_an_evaluation_of_fewer_rows_than_keys_ends_the_caching():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=4)) as run:
        for evaluation in range(4):
            run.start_evaluation(keys="ab")
            unet(torch.full((1, 2, 4, 4), float(evaluation)))
    assert (run.statistics.reused, run.statistics.reason) == (0, OTHERS)


@pytest.mark.parametrize("place", ["input_blocks", "middle_block", "output_blocks"])
def test_a_block_that_is_exchanged_makes_the_evaluation_a_refresh(place):
    unet = TaggedUNet()
    found = []
    with SamplingPass(unet, Settings(interval=6), 6) as run:
        for evaluation in range(6):
            run.start_evaluation()
            if evaluation == 2:  # by whoever is told of the evaluation after us
                if place == "middle_block":
                    unet.middle_block = nn.Identity()
                else:
                    getattr(unet, place)[1] = type(getattr(unet, place)[1])()
            found.append(int(unet(torch.full((1, 2, 4, 4), float(evaluation)))[0, 0, 0, 0]))
    assert found == [0, 0, 2, 2, 2, 2]
    assert run.statistics.reused == 4


def test_blocks_that_are_exchanged_and_put_back_are_the_old_ones_again():
    unet, other = TaggedUNet(), nn.Identity()
    own = unet.input_blocks[2]
    found = []
    with SamplingPass(unet, Settings(interval=3), 6) as run:
        for evaluation in range(6):
            unet.input_blocks[2] = other if evaluation == 1 else own
            run.start_evaluation()
            found.append(int(unet(torch.full((1, 2, 4, 4), float(evaluation)))[0, 0, 0, 0]))
    assert found == [0, 1, 2, 3, 3, 3]


def test_a_pass_that_could_keep_nothing_says_so():
    unet = TaggedUNet()
    unet.forward = lambda x: type(unet).forward(unet, x - 100)  # every walk is over something else
    with SamplingPass(unet, Settings(interval=2)) as run:
        for _ in range(4):
            run.start_evaluation()
            unet(torch.ones(1, 2, 4, 4))
    assert (run.statistics.reused, run.statistics.kept, run.statistics.reason) == (0, 0, NOTHING_KEPT)


def test_a_pass_whose_reuses_all_missed_says_so():
    unet = TaggedUNet()
    with SamplingPass(unet, Settings(interval=2)) as run:
        for size in (4, 5, 6, 7):
            run.start_evaluation()
            unet(torch.zeros(1, 2, size, size))
    assert (run.statistics.reused, run.statistics.missed) == (0, 2)
    assert run.statistics.reason == NOTHING_FITTED


@pytest.mark.parametrize("settings", [Settings(interval=1), Settings(interval=2)], ids=["interval 1", "interval 2"])
def test_a_pass_that_went_as_planned_says_nothing(settings):
    unet = TaggedUNet()
    with SamplingPass(unet, settings) as run:
        for _ in range(4):
            assert run.start_evaluation() in Action
            unet(torch.zeros(1, 2, 4, 4))
    assert run.statistics.reason == ""
