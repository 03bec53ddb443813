"""The small networks that closeness is measured on, their weights and how they are trained."""

import json

import pytest
import torch
from PIL import Image

from bench import presets, train
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
        train.train_on_latents(name, training_pictures.motifs(name, packages), 0.01, 2)
        model = TinyModel(name)
        assert model.decode(model.noise(1, 1)).shape == (1, 3, 128, 128)


@pytest.fixture
def classes(tmp_path):
    """A folder with pictures of two classes, of mean colours from dark and cool to bright and warm."""
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number, colour in enumerate([(10, 20, 60), (60, 20, 10), (90, 99, 120), (130, 99, 90), (220, 225, 240)]):
            Image.new("RGB", (40, 30), colour).save(tmp_path / kind / f"{number}.png")
    return tmp_path


def test_photographs_are_named_by_their_folder_and_tint(classes):
    found = training_pictures.photos(classes)
    assert found.kinds == ("cat", "dog")
    assert found.pictures.shape == (10, 3, 32, 32)
    assert found.kind.tolist() == [0] * 5 + [1] * 5
    names = [training_pictures.TINTS[tint] for tint in found.tint[:5].tolist()]
    assert names == ["dark-cool", "dark-warm", "middle-cool", "middle-warm", "bright-cool"]
    with pytest.raises(ValueError, match="has no folders of pictures"):
        training_pictures.photos(classes / "cat")


@pytest.mark.parametrize("name", train.PHOTOS)
def test_a_network_of_photographs_is_judged_from_its_folder(classes, name):
    torch.manual_seed(0)
    train.train_on_photos(name, training_pictures.photos(classes), 0.005, 2, classes / "networks")
    (model,) = presets.networks([], classes / "networks")
    assert model.name == name
    assert presets.family_of(model) == ("SDXL" if name == "photos-xl" else "SD1")
    assert SAMPLERS["Euler"].sample(model, model.prompts(2), 2).shape == (2, 3, 32, 32)
