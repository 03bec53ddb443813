"""The small networks that closeness is measured on, their weights and how they are trained."""

import json

import pytest
import torch
from PIL import Image

from bench import train
from bench.parts import training_pictures
from demo import tiny_model, weights
from demo.samplers import SAMPLERS
from demo.tiny_model import TinyModel


@pytest.mark.parametrize(
    ("name", "size", "kind"), [("avatars", 32, "eps"), ("emoji", 128, "eps"), ("clipart", 128, "v")]
)
def test_every_network_denoises(name, size, kind):
    model = TinyModel(name)
    prompts = model.prompts(2)
    assert model.levels.prediction == model.prediction == kind
    pictures = SAMPLERS["DPM++ 2M"].sample(model, prompts, 6)
    assert pictures.shape == (2, 3, size, size)
    assert pictures.flatten(1).std(dim=1).min() > 0.02
    assert not torch.equal(pictures, SAMPLERS["DPM++ 2M"].sample(model, prompts, 6, guidance=1.0))


@torch.no_grad()
@pytest.mark.parametrize("name", ["emoji", "clipart"])
def test_the_noise_and_what_a_network_predicts_are_the_same_thing(name):
    model = TinyModel(name)
    x = model.noise(1, 3)
    denoised = model.denoiser(model.prompts(1), 2.0)
    noise = model.noise_predictor(model.prompts(1), 2.0)(x, torch.tensor([500]))
    alpha = model.alphas_cumprod[500]
    sigma = ((1 - alpha) / alpha).sqrt()
    expected = (x - alpha.sqrt() * denoised(x / alpha.sqrt(), sigma.expand(1))) / (1 - alpha).sqrt()
    torch.testing.assert_close(noise, expected, rtol=1e-3, atol=1e-3)


def test_weights_are_kept_in_eight_bits_by_row(tmp_path):
    torch.manual_seed(0)
    large = torch.randn(64, 128) * torch.logspace(-3, 3, 64).view(-1, 1)
    small = torch.randn(64)
    weights.save({"large": large, "small": small}, tmp_path / "kept.safetensors")
    found = weights.load(tmp_path / "kept.safetensors")
    assert (found["large"] - large).norm(dim=1).div(large.norm(dim=1)).max() < 0.02
    torch.testing.assert_close(found["small"], small, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "kept.safetensors").stat().st_size < 1.2 * large.numel()


@pytest.fixture
def packages(tmp_path):
    """Packages with one picture of every kind."""
    emoji = tmp_path / "package"
    images = emoji / "img" / "google" / "64"
    images.mkdir(parents=True)
    entries = []
    for number, category in enumerate(["Objects", "Food & Drink", "Flags"]):
        _motif(images / f"{number}.png", number)
        entries.append({"category": category, "image": f"{number}.png", "has_img_google": True})
    (emoji / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")
    for number, kind in enumerate(training_pictures.CLIPART):
        folder = tmp_path / "openclipart" / "png" / kind
        folder.mkdir(parents=True)
        _motif(folder / "one.png", number)
    return tmp_path


def _motif(file, number):
    Image.new("RGBA", (20 + number, 10), (200, 10 * number, 50, 255)).save(file)


def test_motifs_are_fitted_into_the_picture_and_told_apart(packages):
    found = training_pictures.motifs("emoji", packages)
    assert found.kinds == ("food", "objects")
    pictures = found.on(torch.tensor([0, 1]), torch.tensor([0, 5]), torch.tensor([False, True]))
    assert pictures.shape == (2, 3, 128, 128)
    assert pictures[0, :, 0, 0].tolist() == [1, 1, 1]
    assert pictures[:, 0, 64, 64].tolist() == pytest.approx([2 * 200 / 255 - 1] * 2, abs=0.01)
    assert training_pictures.motifs("clipart", packages).kinds == training_pictures.CLIPART


def test_a_folder_without_pictures_is_answered_with_one_sentence(packages):
    for kind in training_pictures.CLIPART:
        (packages / "openclipart" / "png" / kind / "one.png").unlink()
    with pytest.raises(ValueError, match=r"has no pictures of the set clipart; unpack its package there$"):
        training_pictures.motifs("clipart", packages)


def test_training_writes_what_the_model_reads(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_model, "files", lambda name: tmp_path / f"tiny_{name}")
    torch.manual_seed(0)
    train.train_autoencoder([training_pictures.motifs(name, packages) for name in train.SETS], 0.01, 2)
    for name in train.SETS:
        train.train_network(name, training_pictures.motifs(name, packages), 0.01, 2)
        model = TinyModel(name)
        assert model.decode(model.noise(1, 1)).shape == (1, 3, 128, 128)
