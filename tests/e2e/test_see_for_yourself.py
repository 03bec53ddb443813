"""The comparison and the tuning in the real page, with their buttons."""

import os
from pathlib import Path

import pytest

from tests.browser import page as open_page

WAIT = 240_000
PANEL = "#script_txt2img_deepcache"


@pytest.fixture(scope="module")
def page(server, maker):
    server.request("/deepcache/v1/tune", method="DELETE")
    server.post("/sdapi/v1/options", {"sd_model_checkpoint": maker.model("SD1")})
    with open_page() as page:
        page.set_default_timeout(WAIT)
        page.goto(server.address)
        page.wait_for_selector("#txt2img_generate")
        page.wait_for_selector(f"{PANEL}_enabled")
        page.evaluate(f"document.querySelector('{PANEL}_enabled-checkbox input').click()")
        page.wait_for_selector(f"{PANEL}_plan svg")
        for slider, value in (("steps", "12"), ("width", "128"), ("height", "128")):
            page.fill(f"#txt2img_{slider} input[type=number]", value)
            page.keyboard.press("Tab")
        yield page
    server.request("/deepcache/v1/tune", method="DELETE")


def folder(tmp_path):
    return Path(os.environ.get("SCREENSHOTS", tmp_path))


def test_each_row_of_the_comparison_can_be_taken_over(page, tmp_path):
    page.click("#txt2img_script_container #script_list input")
    page.click("ul.options >> text=DeepCache comparison")
    page.click("#txt2img_generate")
    page.wait_for_selector(f"{PANEL}_comparison_table table")
    table = page.locator(f"{PANEL}_comparison_table table")
    table.screenshot(path=folder(tmp_path) / "comparison.png")
    page.screenshot(path=folder(tmp_path) / "comparison-page.png", full_page=True)
    rows = table.locator("tbody tr")
    assert [rows.nth(number).locator("td").first.inner_text() for number in (0, 1)] == ["full", "Quality"]
    assert rows.count() == 8
    assert all("x" in rows.nth(number).locator("td").nth(4).inner_text() for number in range(8))
    assert rows.nth(5).locator("td").first.inner_text() == "Balanced, correction off"
    for row, correction in ((5, "off"), (6, "on")):
        rows.nth(row).locator("button").click()
        page.wait_for_function(f"document.querySelector(\"{PANEL}_correction input[value='{correction}']\").checked")
    page.wait_for_function(f"document.querySelector(\"{PANEL}_preset input[value='Fast']\").checked")
    fewer = rows.nth(7).locator("td").nth(1).inner_text()
    rows.nth(7).locator("button").click()
    page.wait_for_function(f"document.querySelector('#txt2img_steps input[type=number]').value == '{fewer}'")
    page.wait_for_function(f"!document.querySelector('{PANEL}_enabled-checkbox input').checked")
    page.fill("#txt2img_steps input[type=number]", "12")
    page.keyboard.press("Tab")


def test_the_buttons_tune_and_forget(page, tmp_path):
    page.check(f"{PANEL}_preset input[value='Fast']", force=True)
    page.evaluate(f"document.querySelector('{PANEL}_enabled-checkbox input').click()")
    page.click(f"{PANEL}_tune")
    page.wait_for_function(f"document.querySelector('{PANEL}_tuned').innerText.includes('Makes 12 pictures')")
    page.wait_for_function(f"document.querySelector('{PANEL}_tuned').innerText.includes('Fast: ')")
    page.wait_for_function(f"document.querySelector('{PANEL}_plan').innerText.includes('tuned for this checkpoint')")
    page.locator(f"{PANEL}_enabled").screenshot(path=folder(tmp_path) / "tuned.png")
    assert page.input_value("#txt2img_script_container #script_list input") == "None"
    page.click(f"{PANEL}_forget")
    page.wait_for_function(f"document.querySelector('{PANEL}_tuned').innerText.includes('Forgot the plans')")
    page.wait_for_function(f"!document.querySelector('{PANEL}_plan').innerText.includes('tuned for this checkpoint')")
