"""Closeness against scikit-image's, and what a comparison tells."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from deepcache_ext.webui.comparing.closeness import IDENTICAL, difference, psnr, ssim
from deepcache_ext.webui.comparing.comparison import Choice, Comparison, Row


def random_pair(height=40, width=31):
    random = np.random.default_rng(0)
    one = random.integers(0, 256, (height, width, 3))
    other = np.clip(one + random.integers(-20, 21, one.shape), 0, 255)
    return one.astype(np.uint8), other.astype(np.uint8)


def test_psnr_and_ssim_are_scikit_images():
    one, other = random_pair()
    assert psnr(one, other) == pytest.approx(peak_signal_noise_ratio(other, one))
    assert ssim(one, other) == pytest.approx(structural_similarity(one, other, channel_axis=2))


def test_the_same_picture_is_identical_and_another_size_is_refused():
    one, other = random_pair()
    assert (psnr(one, one), ssim(one, one)) == (IDENTICAL, pytest.approx(1))
    assert difference(one, other, 5).max() == 100
    for of in (psnr, ssim, difference):
        with pytest.raises(ValueError, match="of one size"):
            of(one, other[:-1])
    with pytest.raises(ValueError, match="7x7"):
        ssim(*random_pair(6, 20))


def comparison(*figures):
    full = Row("full", 20, unet_seconds=2.0, psnr=[IDENTICAL], ssim=[1.0])
    choices = [
        Choice(
            Row(name, 20, unet_seconds=1.0, speed_up=2.0, psnr=psnrs, ssim=[0.9]),
            Row(f"{steps} steps", steps, unet_seconds=1.0, psnr=fewer, ssim=[0.8]),
        )
        for name, psnrs, steps, fewer in figures
    ]
    return Comparison("model", "Euler", "Karras", 64, 64, [1, 2], full, choices=choices)


def test_advice_names_what_fewer_steps_are_closer_than():
    found = comparison(("Quality", [30.0, 40.0], 13, [34.0]), ("Fast", [20.0], 7, [25.0]))
    assert found.advice == "With these settings fewer steps are closer than Fast (7 steps: 25.0 dB, it: 20.0)."
    assert comparison(("Quality", [30.0], 13, [30.0])).advice == ""


def test_figures_have_means_and_worst_values_and_text_says_them():
    found = comparison(("Quality", [30.0, 40.0], 13, [34.0]))
    (choice,) = found.as_json()["choices"]
    assert (choice["psnr_mean"], choice["psnr_worst"], choice["fewer_steps"]["psnr_mean"]) == (35.0, 30.0, 34.0)
    assert str(found) == "Quality 2.00x 35.0 (30.0) dB SSIM 0.900, against 13 steps 1.00x 34.0 dB SSIM 0.800"
    assert str(Row("full", 20, psnr=[IDENTICAL], ssim=[1.0])) == "full same SSIM 1.000"
