"""What the README and the pages in docs show runs, and their tables are the code's."""

import json
import re
from pathlib import Path

import pytest

from bench import presets
from bench.parts import report
from deepcache_ext import __version__
from deepcache_ext.webui.options import CONTROLS, given, resolved, written
from deepcache_ext.webui.presets import PRESETS
from tests.e2e.works_with import ROWS, table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_examples_run(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    namespace = {}
    exec(compile(example, "README.md", "exec"), namespace)  # noqa: S102 - the example is ours
    assert capsys.readouterr().out.startswith("Statistics(full=7, reused=13, ")
    assert not namespace["unet"]._forward_pre_hooks


def test_the_two_commands_come_first():
    assert re.findall(r"```\n(.*?)```", README, re.DOTALL)[0].split("\n")[:2] == [
        "python3 dev.py demo",
        "python3 dev.py test",
    ]


def settings_table():
    rows = ["| setting | name | takes | default | what it does |", "| --- | --- | --- | --- | --- |"]
    for control in CONTROLS.values():
        default = str(written(control.default)) or "empty"
        rows.append(f"| {control.label} | `{control.name}` | {control.kind} | {default} | {control.help} |")
    return "\n".join(rows)


def presets_table():
    rows = ["| preset | SD1 and SD2 | SDXL |", "| --- | --- | --- |"]
    for name, families in PRESETS.items():
        assert families["SD1"] == families["SD2"]
        assert {families[f]["schedule"] for f in families} == {"auto"}
        cells = [f"{families[f]['speed_up']:g}x, depth {families[f]['depth']}" for f in ("SD1", "SDXL")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_code():
    assert settings_table() in page("settings.md"), settings_table()


def test_the_presets_table_is_that_of_the_code():
    assert presets_table() in page("settings.md"), presets_table()
    (quality, balanced, fast) = (f"{families['SD1']['speed_up']:g}x" for families in PRESETS.values())
    assert f"Of the U-Net's speed Quality aims at {quality}, Balanced at {balanced}, Fast at {fast}." in README


def test_the_tables_of_what_presets_hold_and_gain_are_those_of_the_measurements():
    results = report.read_csv(presets.Result, ROOT / "docs" / "presets.csv")
    assert f"\n\n{presets.promises(results)}\n\n" in README, presets.promises(results)
    assert f"\n\n{presets.summary(results)}\n\n" in page("presets.md"), presets.summary(results)


def api_examples():
    return [json.loads(example) for example in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]


def test_the_api_examples_ask_for_what_they_say():
    by_name, by_position = (example["alwayson_scripts"]["DeepCache"]["args"] for example in api_examples())
    assert resolved(given(by_name), "SD1").base.speed_up == 2.5
    assert resolved(given(by_position), "SD1").base.speed_up == 3


def test_the_changelog_knows_the_version():
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_linked_file_exists(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_bench_that_is_named_is_there_with_its_options(path):
    text, fence = path.read_text(encoding="utf-8"), re.compile(r"```.*?```", re.DOTALL)
    spans = re.findall(r"`([^`]+)`", fence.sub("", text))
    spans += [line.split("#")[0] for block in fence.findall(text) for line in block.splitlines()]
    for command in filter(None, (re.search(r"\bbench\s+([a-z_]+\b.*)", span, re.DOTALL) for span in spans)):
        name, *options = command[1].split()
        (file,) = [file for room in ("bench", "bench/research") if (file := ROOT / room / f"{name}.py").exists()]
        for option in options:
            known = not option.startswith("--") or option == "--help"
            assert known or f'"{option}"' in file.read_text(encoding="utf-8"), command[0]


def test_every_finding_is_listed_by_its_first_line():
    for script in sorted((ROOT / "findings").glob("*.sh")):
        first = script.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")
        assert f"* [`{script.name}`](../findings/{script.name}): {first}\n" in page("contributing.md")


def test_the_readme_can_be_read_to_the_end():
    assert len(README.splitlines()) <= 180


def test_the_table_works_with_is_what_the_end_to_end_tests_found():
    results = json.loads((ROOT / "docs" / "works-with.json").read_text(encoding="utf-8"))
    assert list(results["rows"]) == list(ROWS)
    assert table(results) in page("works-with.md"), table(results)


def test_the_memory_is_that_of_the_bench():
    """What presets keep for a picture, at depth 0, without noise and with it."""
    for network, family in (("SD1.5", "SD1 at 512x512"), ("SDXL", "SDXL at 1024x1024")):
        rows = re.findall(rf"^\| {network} \| 2 \| Euler(?: a)? \| 0 \|.* (\d+) \|$", page("speed.md"), re.MULTILINE)
        least, most = sorted(map(int, rows))
        kept = f"{least}" if least == most else f"{least} to {most}"
        assert re.search(rf"\b{kept} MiB( a picture)? with {family}", README.replace("\n", " ")), kept
