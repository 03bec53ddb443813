"""The panel in real gradio and a real browser."""

import json
import re
import time

import gradio as gr
import pytest
from modules import sd_models, shared

from deepcache_ext.planning.placement import full_evaluations
from deepcache_ext.webui.options import CONTROLS, SCHEDULES, written
from deepcache_ext.webui.presets import PRESETS
from tests.browser import page as open_page
from tests.webui.page import build
from tests.webui.support import NoUNet, Processing, load_checkpoint, load_script

DEFAULTS = [written(control.default) for control in CONTROLS.values()]


@pytest.fixture(scope="module")
def site():
    load_checkpoint()
    page, scripts = build(load_script())
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, show_api=False)
    yield address, scripts
    page.close()
    sd_models.model_data.sd_model = None


@pytest.fixture(scope="module")
def browser():
    with open_page() as page:
        yield page


@pytest.fixture
def page(site, browser):
    browser.goto(site[0])
    browser.wait_for_selector("#script_txt2img_deepcache_enabled-checkbox input")
    return browser


def ident(name, tab="txt2img"):
    return f"#script_{tab}_deepcache_{name}"


def enable(page, tab="txt2img"):
    page.check(ident("enabled-checkbox", tab) + " input")
    page.wait_for_selector(ident("plan", tab) + " svg")


def wait_for_plan(page, text):
    page.wait_for_function(
        "([id, text]) => document.querySelector(id).innerText.includes(text)", arg=[ident("plan"), text]
    )


def bars(page, kind):
    return page.locator(f"{ident('plan')} rect.{kind}").count()


def sent(page, tab="txt2img"):
    page.click(f"#{tab}_generate")
    page.wait_for_function(f"document.querySelector('#generation_info_{tab} textarea').value != ''")
    return json.loads(page.input_value(f"#generation_info_{tab} textarea"))


def customise(page, schedule=None):
    page.click(ident("preset") + " label:has-text('Custom')")
    page.wait_for_selector(ident("schedule"))
    if schedule:
        page.click(f"{ident('schedule')} label:has(input[value='{schedule}'])")


def open_advanced(page):
    page.click(ident("advanced") + " .label-wrap")
    page.wait_for_selector(ident("forecast"))


def test_off_and_closed_at_first(page):
    assert not page.is_checked(ident("enabled-checkbox") + " input")
    assert not page.is_visible(ident("speed_up"))
    assert sent(page) == DEFAULTS


def test_the_plan_shows_every_evaluation_and_the_speed_up(page):
    enable(page)
    assert (bars(page, "full"), bars(page, "reused")) == (10, 10)
    wait_for_plan(page, "10 of 20 evaluations in full, the U-Net about 2.0x as fast")
    wait_for_plan(page, "with DPM++ 2M, 10 steps may be as close for the same time")
    page.click(ident("preset") + " label:has-text('Fast')")
    wait_for_plan(page, "7 of 20 evaluations in full")


def shown(page):
    return [name for name in CONTROLS if name != "enabled" and page.is_visible(ident(name))]


def test_with_a_preset_nothing_else_is_shown(page):
    enable(page)
    assert shown(page) == ["preset"]
    customise(page)
    assert shown(page) == ["preset", "schedule", "speed_up", "depth"]
    open_advanced(page)
    page.click(ident("preset") + " label:has-text('Fast')")
    page.wait_for_selector(ident("schedule"), state="hidden")
    assert shown(page) == ["preset", "start", "end", "forecast", "hires", "inner", "correction"]


def test_custom_begins_with_the_values_of_the_preset(page):
    enable(page)
    page.click(ident("preset") + " label:has-text('Fast')")
    wait_for_plan(page, "7 of 20 evaluations in full")
    customise(page)
    page.wait_for_function(f"document.querySelector('{ident('speed_up')} input[type=number]').value == '3'")
    slider = page.locator(ident("speed_up") + " input[type=range]")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 2 / 3 * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 1 / 6 * box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_timeout(300)
    speed_up = float(page.input_value(ident("speed_up") + " input[type=number]"))
    assert 1.2 <= speed_up <= 1.8
    wait_for_plan(page, f"{full_evaluations(20, speed_up, 0.0)} of 20 evaluations in full")
    arguments = dict(zip(CONTROLS, sent(page), strict=True))
    changed = {"enabled": True, "preset": "Custom", "schedule": "auto", "speed_up": speed_up, "depth": 0}
    assert arguments == dict(zip(CONTROLS, DEFAULTS, strict=True)) | changed


def test_the_depth_of_a_preset_goes_with_its_schedule_and_an_own_one_stays(page):
    def wait_for_depth(depth):
        page.wait_for_function(f"document.querySelector('{ident('depth')} input[type=number]').value == '{depth}'")

    def choose(schedule):
        page.click(f"{ident('schedule')} label:has(input[value='{schedule}'])")

    enable(page)
    customise(page)
    wait_for_depth(0)
    choose("uniform")
    wait_for_depth(1)
    choose("auto")
    wait_for_depth(0)
    page.fill(ident("depth") + " input[type=number]", "3")
    page.press(ident("depth") + " input[type=number]", "Tab")
    choose("uniform")
    wait_for_plan(page, "of 20 evaluations in full")
    page.wait_for_timeout(700)
    wait_for_depth(3)


def test_only_what_the_schedule_needs_is_visible(page):
    enable(page)
    customise(page)
    wanted = {
        "auto": {"speed_up"},
        "uniform": {"interval"},
        "non-uniform": {"interval", "center", "power"},
        "list": {"steps"},
    }
    for schedule, visible in wanted.items():
        page.click(f"{ident('schedule')} label:has(input[value='{schedule}'])")
        page.wait_for_timeout(700)
        assert visible == set(shown(page)) & set(SCHEDULES)


def test_an_own_list_is_drawn_and_a_bad_one_explained(page):
    enable(page)
    customise(page, "list")
    page.fill(ident("steps") + " textarea", "0, 5, 9-12")
    page.keyboard.press("Tab")
    wait_for_plan(page, "6 of 20 evaluations in full")
    page.fill(ident("steps") + " textarea", "0, x")
    page.keyboard.press("Tab")
    wait_for_plan(page, "DeepCache will not be used: steps must be a list of evaluations from 0 to 9999")


@pytest.mark.parametrize("field", ["#txt2img_steps", "#txt2img_denoising_strength", "#txt2img_hires_steps"])
def test_while_a_field_of_the_hosts_is_empty_there_is_no_plan(page, field):
    enable(page)
    page.check("#txt2img_hr-checkbox input")
    wait_for_plan(page, "hires: 10 of 20 evaluations in full")
    number = page.locator(field + " input[type=number]")
    value = number.input_value()
    number.fill("")
    page.wait_for_function(f"document.querySelector('{ident('plan')}').innerText.trim() == ''")
    number.fill(value)
    wait_for_plan(page, "hires: 10 of 20 evaluations in full")


def test_the_plan_follows_the_hosts_sampler_steps_and_hires(page):
    enable(page)
    page.fill("#txt2img_steps input[type=number]", "8")
    page.keyboard.press("Tab")
    wait_for_plan(page, "8 of 8 evaluations")
    wait_for_plan(page, "with 8 steps from noise to picture there is little to gain, only Custom caches below 10")
    customise(page, "uniform")
    wait_for_plan(page, "3 of 8 evaluations")
    page.fill("#txt2img_steps input[type=number]", "30")
    page.keyboard.press("Tab")
    page.click("#txt2img_sampling input")
    page.click("#txt2img_sampling li:has-text('Heun')")
    wait_for_plan(page, "21 of 59 evaluations")
    page.check("#txt2img_hr-checkbox input")
    page.wait_for_timeout(300)
    page.fill("#txt2img_hires_steps input[type=number]", "12")
    page.keyboard.press("Tab")
    wait_for_plan(page, "hires: 9 of 23 evaluations")


def test_the_hires_controls_appear_when_they_are_its_own(page):
    enable(page)
    open_advanced(page)
    assert not page.is_visible(ident("hires_interval"))
    page.click(f"{ident('hires')} label:has(input[value='own'])")
    page.wait_for_selector(ident("hires_speed_up"))
    assert page.is_visible(ident("hires_depth"))
    assert not page.is_visible(ident("hires_interval"))


def test_after_a_generation_the_panel_tells_what_happened(page):
    enable(page)
    sent(page)
    page.wait_for_selector(ident("report") + " .deepcache-report")
    line = page.locator(ident("report") + " p", has_text="txt2img")
    assert re.match(
        r"txt2img, Euler: 10 evaluations in full, 10 reused, [\d.]+ s(, [\d.]+x as fast)?$", line.inner_text()
    )
    assert line.bounding_box()["height"] < 30  # one line


def test_img2img_counts_the_steps_its_denoising_leaves(page):
    page.click("button:has-text('img2img')")
    enable(page, "img2img")
    page.wait_for_timeout(500)
    assert "8 of 16 evaluations" in page.inner_text(ident("plan", "img2img"))
    assert not page.is_visible(ident("hires", "img2img"))
    assert sent(page, "img2img")[0] is True


def test_sdxl_narrows_the_depth(page):
    load_checkpoint(is_sdxl=True)
    try:
        enable(page)
        page.wait_for_function(f"document.querySelector('{ident('depth')} input[type=range]').max == '8'")
        assert page.input_value(ident("depth") + " input[type=number]") == str(PRESETS["Balanced"]["SDXL"]["depth"])
    finally:
        load_checkpoint()


def test_without_a_unet_the_plan_says_so(page):
    enable(page)
    load_checkpoint(unet=NoUNet())
    try:
        page.fill("#txt2img_steps input[type=number]", "21")
        page.keyboard.press("Tab")
        wait_for_plan(page, "DeepCache will not be used: NoUNet has no U-Net with input_blocks, ")
    finally:
        load_checkpoint()


def test_where_onnx_runtime_makes_the_pictures_the_plan_says_so(page, monkeypatch):
    enable(page)
    monkeypatch.setattr(shared.opts, "onnx_enable", True, raising=False)
    page.fill("#txt2img_steps input[type=number]", "22")
    page.keyboard.press("Tab")
    wait_for_plan(page, "DeepCache will not be used: ONNX Runtime makes the pictures.")


@pytest.fixture
def saved(browser):
    """Open the page of a host in whose ui-config.json the user has saved values, and return it."""
    built = []

    def opened(**values):
        load_checkpoint()
        built.append(build(load_script()))
        page, scripts = built[0]
        made = scripts["txt2img"].panel.components
        for name, value in values.items():
            made[name].value = value
        made["enabled"].accordion.open = made["enabled"].value
        browser.goto(page.launch(prevent_thread_lock=True, quiet=True, show_api=False)[1])
        browser.wait_for_selector(ident("enabled-checkbox") + " input")
        return browser

    yield opened
    built[0][0].close()
    load_checkpoint()


def test_what_the_user_has_saved_as_defaults_is_shown_and_drawn(saved):
    page = saved(enabled=True, preset="Custom", schedule="uniform", interval=4, hires="own")
    wait_for_plan(page, "5 of 20 evaluations in full")
    page.wait_for_selector(ident("interval"))
    page.wait_for_selector(ident("hires_interval"))
    assert set(shown(page)) & {"schedule", "speed_up", "depth", "interval"} == {"schedule", "depth", "interval"}


def test_an_interval_that_is_saved_beside_a_preset_has_no_effect(saved):
    page = saved(enabled=True, interval=5)
    wait_for_plan(page, "10 of 20 evaluations in full, the U-Net about 2.0x as fast")
    arguments = dict(zip(CONTROLS, sent(page), strict=True))
    assert {name: arguments[name] for name in ("preset", "schedule", "interval")} == {
        "preset": "Balanced",
        "schedule": "auto",
        "interval": 5,
    }
    page.wait_for_selector(ident("report") + " .deepcache-report")
    assert "10 evaluations in full, 10 reused" in page.inner_text(ident("report"))
    assert shown(page) == ["preset"]


def test_defaults_that_are_saved_without_a_tick_are_left_as_they_are(saved):
    page = saved(preset="Fast", interval=5)
    page.wait_for_load_state("networkidle")
    assert sent(page) == list((dict(zip(CONTROLS, DEFAULTS, strict=True)) | {"preset": "Fast", "interval": 5}).values())
    page.wait_for_function(f"document.querySelector('{ident('plan')}').innerText.trim() == ''")


def test_building_the_panel_takes_less_than_fifty_milliseconds(site):
    script = site[1]["txt2img"]
    seconds = []
    for _ in range(5):
        with gr.Blocks():
            start = time.perf_counter()
            script.ui(is_img2img=False)
            seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_a_job_that_is_off_costs_less_than_a_millisecond():
    controller = load_script().controller
    shared.state.begin()
    start = time.perf_counter()
    for _ in range(100):
        p = Processing()
        controller.begin_job(p, DEFAULTS)
        controller.end_job(p)
    assert (time.perf_counter() - start) / 100 < 0.001
