"""The demo, as a person starts it, and the development commands around it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from demo.__main__ import main
from demo.pictures import IDENTICAL, psnr, relative_error

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("schedule", ["auto", "uniform", "non-uniform", "0, 2"])
def test_it_prints_the_table_and_writes_the_picture(tmp_path, capsys, schedule):
    out = tmp_path / "new folder" / "demo.png"
    arguments = ["--steps", "4", "--pictures", "2", "--interval", "2", "--schedule", schedule, "--out", str(out)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    uncached = next(line.split() for line in lines if line.startswith("uncached"))
    cached = next(line.split() for line in lines if line.startswith("DeepCache "))
    assert uncached[1:3] == ["4", "0"]
    assert cached[1:3] == ["2", "2"]
    with Image.open(out) as picture:
        assert picture.width > 2 * 32 * 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--interval", "0"], "interval must be a whole number from 1 to 50; got 0"),
        (["--depth", "40"], "depth must be a whole number from 0 to 11; got 40"),
        (["--schedule", "0, x"], "steps must be a list of evaluations"),
        (["--steps", "1"], "steps must be at least 2"),
    ],
)
def test_bad_input_gets_one_sentence(capsys, arguments, sentence):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_closeness():
    reference = torch.full((3, 3, 4, 4), 0.5)
    pictures = reference + torch.tensor([0.0, 0.1, 0.01]).view(3, 1, 1, 1)
    assert psnr(pictures, reference).tolist() == pytest.approx([IDENTICAL, 20, 40], abs=1e-3)
    assert relative_error(pictures, reference).tolist() == pytest.approx([0, 0.2, 0.02], abs=1e-5)


@pytest.mark.parametrize("arguments", [[], ["deploy"], ["bench"], ["bench", "nothing"]])
def test_dev_explains_itself(arguments):
    command = [sys.executable, str(ROOT / "dev.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "python3 dev.py {demo,test,bench}" in result.stdout
