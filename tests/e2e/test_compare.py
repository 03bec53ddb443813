"""The comparison: its figures are those of the pictures, and its pictures those that the tab makes."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bench import webui_closeness
from tests.e2e.pictures import EVERY_THIRD, HIRES, picture_of, pixels, same
from tests.e2e.server import PASSWORD, USER

TITLE = "DeepCache comparison"
TWELVE = {"steps": 12}


def compare(maker, *arguments, **request):
    return maker.make(script_name=TITLE, script_args=list(arguments), **TWELVE | request)


def the_figures(picture, reference):
    one, other = pixels(reference).astype(np.uint8), pixels(picture).astype(np.uint8)
    return peak_signal_noise_ratio(one, other), structural_similarity(one, other, channel_axis=2)


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("SD1", {"sampler_name": "Euler a"}),
        ("SD1", {"sampler_name": "DPM++ 2M", "scheduler": "Karras"} | HIRES),
        ("SDXL", {"sampler_name": "DPM++ 2M"}),
        ("SD1", {"path": "img2img", "init_images": [picture_of()], "denoising_strength": 0.9}),
    ],
    ids=["Euler a", "hires fix", "SDXL", "img2img"],
)
def test_figures_are_those_of_the_pictures_and_pictures_those_of_the_tab(maker, kind, request_):
    request = TWELVE | {"model": maker.model(kind)} | request_
    reply = compare(
        maker, {"choices": ["Balanced", "Panel's settings"]}, alwayson_scripts=panel(speed_up=1.3), **request
    )
    comparison = maker.last_run()["comparison"]
    balanced, uncorrected, own = comparison["choices"]
    assert [choice["label"] for choice in (balanced, own)] == ["Balanced", "Panel's settings"]
    assert (uncorrected["label"], uncorrected["fewer_steps"]) == ("Balanced, correction off", None)
    assert uncorrected["psnr"] != balanced["psnr"]
    fewer = [choice["fewer_steps"] for choice in (balanced, own)]
    wanted = [
        ({}, None, comparison["full"]),
        ({}, {"preset": "Balanced"}, balanced),
        (with_steps(fewer[0]), None, fewer[0]),
        ({}, {"preset": "Balanced", "correction": "off"}, uncorrected),
        ({}, {"speed_up": 1.3}, own),
        (with_steps(fewer[1]), None, fewer[1]),
    ]
    _, *pictures = reply["images"]
    for picture, (changed, cache, row) in zip(pictures, wanted, strict=True):
        assert same({"images": [picture]}, maker.make(cache=cache, **request | changed)), row["label"]
        close, similar = the_figures(picture, pictures[0]) if picture is not pictures[0] else (100.0, 1.0)
        assert row["psnr"] == [pytest.approx(close, abs=1e-6)]
        assert row["ssim"] == [pytest.approx(similar, abs=1e-6)]
        assert 0 < row["unet_seconds"] < row["seconds"]
        assert row["speed_up"] == pytest.approx(comparison["full"]["unet_seconds"] / row["unet_seconds"])
    assert 1 < fewer[0]["steps"] < fewer[1]["steps"] < 12


def with_steps(row):
    return {"steps": row["steps"]} | ({"hr_second_pass_steps": row["hires_steps"]} if row["hires_steps"] else {})


def panel(**values):
    return {"DeepCache": {"args": [{"enabled": False} | values]}}


@pytest.mark.parametrize("sampler", ["Heun", "UniPC"])
def test_there_is_no_row_without_the_correction_where_nothing_is_corrected(maker, sampler):
    compare(maker, ["Balanced"], False, sampler_name=sampler)
    assert labels(maker.last_run()["comparison"]) == ["Balanced"]


def test_several_seeds_give_the_mean_and_the_worst(maker):
    reply = compare(maker, ["Fast"], True, True, n_iter=2, sampler_name="Heun")
    (choice,) = maker.last_run()["comparison"]["choices"]
    grid, *pictures = reply["images"]
    assert len(pictures) == 6 + 4
    figures = [the_figures(pictures[2 + number], pictures[number]) for number in range(2)]
    assert choice["psnr"] == [pytest.approx(psnr, abs=1e-6) for psnr, _ in figures]
    assert choice["psnr_mean"] == pytest.approx(sum(choice["psnr"]) / 2)
    assert choice["psnr_worst"] == min(choice["psnr"])
    assert choice["ssim_worst"] == min(choice["ssim"])
    difference = np.clip(5 * np.abs(pixels(pictures[2]) - pixels(pictures[0])), 0, 255)
    assert np.array_equal(pixels(pictures[6]), difference)
    height, width, _ = pixels(grid).shape
    assert height > 6 * 128
    assert width > 2 * 128


def test_the_bench_asks_a_running_host_and_prints_a_table(server, maker, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# two\na house\n\na boat\n", encoding="utf-8")
    asked = ["--prompts", str(prompts), "--seeds", "2", "--samplers", "Euler", "--choices", "Fast"]
    asked += ["--steps", "12", "--size", "128", "--checkpoint", maker.model("SD1")]
    assert webui_closeness.main([server.address, "--auth", f"{USER}:{PASSWORD}", *asked]) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == list(webui_closeness.HEADINGS)
    full, fast, fewer, uncorrected = lines[2:6]
    assert uncorrected[2:4] == ["Fast, correction off", "12"]
    assert [line[2:4] for line in (full, fast, fewer)] == [["full", "12"], ["Fast", "12"], ["fewer steps", fewer[3]]]
    comparison = maker.last_run()["comparison"]
    assert {line[0] for line in (full, fast, fewer)} == {comparison["checkpoint"]}
    assert float(fast[7].split()[0]) >= float(fast[7].split("(")[1].rstrip(")"))
    assert comparison["device"] in lines[7][0]
    assert "2 prompts of 2 seeds" in lines[7][0]
    assert webui_closeness.main(["http://127.0.0.1:9", "--prompts", str(prompts)]) == 1
    assert "is the WebUI running with --api" in capsys.readouterr().err


def while_making(maker, label, act, **request):
    """Return the status and the answer of a comparison during whose row of that label `act` is done."""
    body = {"prompt": "a house", "steps": 40, "width": 128, "height": 128, "sampler_name": "Euler", "seed": 7}
    body |= {"script_name": TITLE, "script_args": [["Balanced", "Fast"]]} | request
    body |= {"override_settings": {"sd_model_checkpoint": maker.model("SD1")}}
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(maker.server.request, "/sdapi/v1/txt2img", body)
        while not making.done():
            progress = maker.server.get("/sdapi/v1/progress?skip_current_image=true")
            if progress["state"]["job"].startswith(label) and progress["state"]["sampling_step"] >= 2:
                assert 0 < progress["progress"] < 1
                act()
                break
            time.sleep(0.02)
        return making.result()


def labels(comparison):
    rows = [row for choice in comparison["choices"] for row in (choice, choice["fewer_steps"]) if row]
    return [row["label"] for row in rows]


@pytest.mark.usefixtures("_nothing_is_left")
def test_an_interruption_keeps_what_is_done(maker):
    status, answer = while_making(maker, "Fast", lambda: maker.server.post("/sdapi/v1/interrupt"))
    comparison = maker.last_run()["comparison"]
    assert (status, len(answer["images"])) == (200, 5)
    assert labels(comparison) == ["Balanced", "20 steps", "Balanced, correction off"]
    assert comparison["note"] == "ended before Fast was finished"


@pytest.mark.usefixtures("_nothing_is_left")
def test_an_error_keeps_what_is_done(maker):
    status, answer = while_making(maker, "Balanced", lambda: maker.server.post("/e2e/want?raise_at=1"))
    comparison = maker.last_run()["comparison"]
    done = labels(comparison)
    assert done in ([], ["Balanced"], ["Balanced", "20 steps"], ["Balanced", "20 steps", "Balanced, correction off"])
    assert (status, len(answer["images"])) == (200, (2 if done else 1) + len(done))
    assert comparison["note"].startswith("ended before")
    assert "OutOfMemoryError" in comparison["note"]


@pytest.mark.usefixtures("_nothing_is_left")
def test_another_request_meanwhile_waits_and_gets_its_own_picture(maker):
    with ThreadPoolExecutor(1) as pool:
        other = []
        status, _ = while_making(
            maker, "Balanced", lambda: other.append(pool.submit(maker.make, cache=EVERY_THIRD, seed=8))
        )
        assert status == 200
        assert same(other[0].result(), maker.make(cache=EVERY_THIRD, seed=8))


@pytest.mark.usefixtures("_nothing_is_left")
def test_another_checkpoint_meanwhile_does_not_get_into_the_figures(maker):
    first, other = maker.model("SD1"), maker.model("SDXL")
    wish = {"sd_model_checkpoint": other}
    request = {"override_settings": {}}
    maker.server.post("/sdapi/v1/options", {"sd_model_checkpoint": first})
    try:
        with ThreadPoolExecutor(1) as pool:
            while_making(
                maker, "Balanced", lambda: pool.submit(maker.server.post, "/sdapi/v1/options", wish), **request
            )
        comparison = maker.last_run()["comparison"]
        assert comparison["checkpoint"] == first
        made = {"Balanced", "Balanced, correction off", "20 steps", "Fast", "12 steps", "13 steps", "14 steps"}
        assert set(labels(comparison)) <= made
        assert comparison["note"] in {"", "the checkpoint was changed in mid-run; what was made after that is left out"}
    finally:
        maker.server.post("/sdapi/v1/options", {"sd_model_checkpoint": first})
