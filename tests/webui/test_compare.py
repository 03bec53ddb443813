"""What of a request to compare is read, and what a comparison makes when the host interrupts, fails or changes."""

import pytest
from modules import processing, shared

from deepcache_ext.webui.comparing.compare import Comparer, Wish
from deepcache_ext.webui.comparing.compare_panel import table
from tests.webui.support import PictureHost, Processing, job, load_checkpoint, sample


class Tab(Processing):
    """The processing object of a tab."""

    prompt, sampler_name, scheduler, steps, width, height = "a", "Euler", "Automatic", 12, 16, 16
    seed, n_iter, batch_size, styles, override_settings = 5, 1, 1, (), None
    sd_model_name, script_args = "model", ({"enabled": False},)
    all_seeds = all_subseeds = (5,)
    all_prompts = all_negative_prompts = ("a",)
    do_not_save_samples = True


@pytest.fixture
def host(controller, monkeypatch):
    """Have the host make grey pictures, darker where it was faster, and note the jobs but the warm-up's."""
    for name, value in {"img_max_size_mp": 200, "grid_save": False, "grid_format": "png"}.items():
        monkeypatch.setattr(shared.opts, name, value, raising=False)
    host = PictureHost(
        controller, monkeypatch, lambda p: 100 + p.steps + 20 * ("DeepCache enabled" in p.extra_generation_params)
    )
    make = processing.process_images
    empty = processing.Processed(None, [], infotexts=[], index_of_first_image=0)
    monkeypatch.setattr(processing, "process_images", lambda p: empty if p.steps == 2 else make(p))
    host.comparer = Comparer(controller)
    return host


def test_a_wish_is_read_by_position_or_by_name_and_what_is_unknown_is_told():
    assert Wish.read([]) == Wish(("Quality", "Balanced", "Fast"), True, False, "")
    assert Wish.read([["Fast"], False, True]) == Wish(("Fast",), False, True, "")
    assert Wish.read([{"choices": "Fast", "differences": "true"}]) == Wish(("Fast",), True, True, "")
    told = Wish.read([{"choices": ["Faster"], "seed": 3}])
    assert told.choices == ("Quality", "Balanced", "Fast")
    assert told.note.startswith("seed, Faster: unknown; choices are Quality, Balanced, Fast, Panel's settings")


def test_a_wish_that_is_neither_true_nor_false_is_told():
    told = Wish.read([{"fewer_steps": "maybe", "differences": 1}])
    assert (told.fewer_steps, told.differences) == (True, True)
    assert told.note == "fewer_steps must be true or false; got 'maybe'"


def test_each_choice_and_as_many_steps_are_made(host):
    result = host.comparer.run(Tab(), [["Balanced", "Panel's settings"]])
    comparison = host.comparer.of_last_run
    assert [row.label for row in comparison.rows()] == ["Balanced", "6 steps", "Panel's settings", "6 steps"]
    assert [p.steps for p in host.made] == [12, 12, 6, 12]
    assert len(result.images) == 1 + 4
    assert comparison.advice.startswith("With these settings fewer steps are closer than Balanced (6 steps: ")


def test_the_table_tells_why_nothing_of_a_choice_was_cached(host):
    p = Tab()
    p.steps = 8
    host.comparer.run(p, [["Balanced"], False])
    (row,) = host.comparer.last.rows()
    assert row.reason.startswith("with 8 steps from noise to picture there is little to gain")
    assert f"<td>Balanced ({row.reason})</td>" in table(host.comparer.last, str)


def test_the_warm_up_has_the_same_sampler_in_the_hires_pass(host, monkeypatch):
    """UniPC, say, makes no run of two steps."""
    make, samplers = processing.process_images, []

    def process(p):
        samplers.append((p.steps, p.sampler_name, p.hr_sampler_name))
        return make(p)

    p = Tab()
    p.enable_hr, p.hr_second_pass_steps, p.hr_sampler_name = True, 12, "UniPC"
    monkeypatch.setattr(processing, "process_images", process)
    host.comparer.run(p, [["Fast"], False])
    assert samplers == [(2, "Euler", None), (12, "Euler", "UniPC"), (12, "Euler", "UniPC")]


@pytest.fixture
def corrected(host, controller, monkeypatch):
    """Have the host's reports say that a call was put right, unless a job asks for no correction."""
    make = processing.process_images

    def process(p):
        made = make(p)
        if "DeepCache enabled" in p.extra_generation_params and "DeepCache correction" in p.extra_generation_params:
            controller.last_report.passes[0].statistics.corrected = 1
        return made

    monkeypatch.setattr(processing, "process_images", process)
    return host


@pytest.mark.parametrize(
    ("choices", "labels"),
    [
        (["Quality", "Balanced"], ["Quality", "Balanced", "Balanced, correction off"]),
        (["Fast", "Panel's settings"], ["Fast", "Fast, correction off", "Panel's settings"]),
    ],
)
def test_one_choice_is_made_without_its_correction_too(corrected, choices, labels):
    result = corrected.comparer.run(Tab(), [choices, False])
    rows = list(corrected.comparer.last.rows())
    assert [row.label for row in rows] == labels
    assert len(result.images) == 1 + 1 + 3
    assert len(corrected.made) == 1 + 3
    assert shared.state.job_count == 1 + 1 + 3  # and the warm-up
    (without,) = [p for p in corrected.made[1:] if "DeepCache correction" not in p.extra_generation_params]
    assert without.extra_generation_params["DeepCache enabled"]
    number = next(number for number, label in enumerate(labels) if label.endswith("correction off"))
    assert rows[number].settings == rows[number - 1].settings | {"correction": "off"}
    assert rows[number - 1].settings["correction"] == "on"


def test_a_skip_of_the_first_of_two_pictures_is_noticed(host, monkeypatch):
    class Two(Tab):
        n_iter = 2
        all_seeds = all_subseeds = (5, 6)
        all_prompts = all_negative_prompts = ("a", "a")

    make = processing.process_images

    def process(p):
        """Make both pictures; as the host does, the second begins with no skip."""
        made = make(p)
        shared.state.skipped = False
        if p.n_iter == 2:
            sample(p, name=p.sampler_name, steps=p.steps)
            made.images, made.infotexts = made.images * 2, made.infotexts * 2
        return made

    def skip(number):
        shared.state.skipped = number == 3

    monkeypatch.setattr(processing, "process_images", process)
    host.during = skip
    host.comparer.run(Two(), [["Balanced", "Fast"]])
    assert host.comparer.last.note == "ended before Fast was finished"
    assert [row.label for row in host.comparer.last.rows()] == ["Balanced", "6 steps"]


def interrupt(_number):
    shared.state.interrupted = True


def fail(_number):
    raise RuntimeError("out of memory")


def exchange(_number):
    load_checkpoint("two")


@pytest.mark.parametrize(
    ("what", "note"),
    [
        (interrupt, "ended before Fast was finished"),
        (fail, "ended before Fast was finished: RuntimeError: out of memory"),
        (exchange, "the checkpoint was changed in mid-run; what was made after that is left out"),
    ],
)
def test_what_is_done_is_kept(host, what, note):
    host.during = lambda number: what(number) if number == 3 else None
    result = host.comparer.run(Tab(), [["Balanced", "Fast"]])
    assert host.comparer.last.note == note
    assert note in result.comments
    assert [row.label for row in host.comparer.last.rows()] == ["Balanced", "6 steps"]
    assert len(result.images) == 1 + 3


@pytest.mark.parametrize("swapped", [None, "base", "refiner"])
def test_a_refiner_that_every_job_loads_is_no_change_of_checkpoint(host, monkeypatch, swapped):
    """As hosts do it that keep one checkpoint: each job loads the base anew, and the refiner anew in mid-run."""
    make = processing.process_images

    def process(p):
        names = {"base": "base", "refiner": "refiner"}
        if swapped and len(host.made) == 3:
            names[swapped] = "another"
        load_checkpoint(names["base"])
        p.sd_model_name = names["base"]
        host.during = lambda _number: load_checkpoint(names["refiner"])
        return make(p)

    monkeypatch.setattr(processing, "process_images", process)
    host.comparer.run(Tab(), [["Balanced", "Fast"]])
    labels = [row.label for row in host.comparer.last.rows()]
    if swapped is None:
        assert (labels[:3], host.comparer.last.note) == (["Balanced", "6 steps", "Fast"], "")
    else:
        assert (labels, "the checkpoint was changed" in host.comparer.last.note) == (["Balanced", "6 steps"], True)


def test_without_a_full_picture_there_is_no_comparison(host):
    host.during = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        host.comparer.run(Tab(), [])
    host.during = interrupt
    assert host.comparer.run(Tab(), []).images == []
    assert host.comparer.last.note == "interrupted before the full picture was finished"


def test_a_later_job_is_the_last_run(host, controller):
    host.comparer.run(Tab(), [["Fast"], False])
    assert host.comparer.of_last_run is host.comparer.last
    job(controller, Processing(), {"enabled": True, "interval": 2})
    assert host.comparer.of_last_run is None
