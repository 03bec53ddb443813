"""The panel in the real page."""

import os
import re
from pathlib import Path

import pytest

from tests.browser import page as open_page

WAIT = 120_000


@pytest.fixture(scope="module")
def page(server):
    with open_page() as page:
        page.set_default_timeout(WAIT)
        page.goto(server.address)
        page.wait_for_selector("#txt2img_generate")
        yield page


def test_ticking_drawing_generating_and_reporting(page, tmp_path):
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    page.wait_for_selector("#script_txt2img_deepcache_enabled")
    assert not page.is_visible("#script_txt2img_deepcache_interval")
    page.click("#script_txt2img_deepcache_enabled .label-wrap")
    page.wait_for_selector("#script_txt2img_deepcache_plan svg")
    for slider, value in (("steps", "20"), ("width", "128"), ("height", "128")):
        page.fill(f"#txt2img_{slider} input[type=number]", value)
        page.keyboard.press("Tab")
    page.wait_for_function(
        "document.querySelector('#script_txt2img_deepcache_plan').innerText.includes(' of 20 evaluations')"
    )
    page.locator("#script_txt2img_deepcache_enabled").screenshot(path=folder / "panel-before.png")
    page.click("#txt2img_generate")
    page.wait_for_selector("#script_txt2img_deepcache_report .deepcache-report")
    # Forge chooses the sampler of its preset only after the page is there
    full = int(re.search(r"(\d+) of 20 evaluations", page.inner_text("#script_txt2img_deepcache_plan"))[1])
    assert 5 < full < 12
    assert f": {full} evaluations in full, {20 - full} reused, " in page.inner_text("#script_txt2img_deepcache_report")
    page.locator("#script_txt2img_deepcache_enabled").screenshot(path=folder / "panel-after.png")
    page.screenshot(path=folder / "page.png")


def test_a_bad_setting_is_told_in_the_results_comments(page):
    page.click("#script_txt2img_deepcache_preset label:has(input[value='Custom'])")
    page.click("#script_txt2img_deepcache_schedule label:has(input[value='list'])")
    page.wait_for_selector("#script_txt2img_deepcache_steps textarea")
    page.fill("#script_txt2img_deepcache_steps textarea", "0, x")
    page.click("#txt2img_generate")
    page.wait_for_function(
        "document.querySelector('#html_log_txt2img').innerText.includes('DeepCache not used: steps must be')"
    )


def test_the_paste_button_brings_the_settings_back(page):
    text = "a\nSteps: 9, Sampler: Euler, Seed: 1, Size: 128x128, DeepCache enabled: True, DeepCache depth: 2"
    page.fill("#txt2img_prompt textarea", text + ", DeepCache preset: Custom, DeepCache interval: 4")
    page.click("#paste")
    page.wait_for_function(
        "document.querySelector('#script_txt2img_deepcache_interval input[type=number]').value == '4'"
    )
    assert page.input_value("#script_txt2img_deepcache_depth input[type=number]") == "2"
    assert page.is_checked("#script_txt2img_deepcache_preset input[value='Custom']")
