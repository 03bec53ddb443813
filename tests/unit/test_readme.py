"""What the README shows runs, and its table of settings is the code's."""

import dataclasses
import re
from pathlib import Path

from deepcache_ext import Settings, __version__

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
    for field in dataclasses.fields(Settings):
        label, kind, help_ = (field.metadata[key] for key in ("label", "kind", "help"))
        default = field.default if field.default != () else "empty"
        rows.append(f"| {label} | `{field.name}` | {kind} | {default} | {help_} |")
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_code():
    assert settings_table() in README, settings_table()


def test_the_changelog_knows_the_version():
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_linked_file_exists():
    for text in (README, (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), target
