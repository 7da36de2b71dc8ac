"""Preprocessing: exact values, torchvision as the yardstick, and every kind of PIL image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from musc_fast.features.preprocessing import preprocess

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RNG = np.random.default_rng(0)


def photo(height: int = 37, width: int = 53) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(("mean", "std"), [CLIP, IMAGENET])
def test_a_constant_image_has_exactly_the_normalised_value(mean, std):
    image = Image.new("RGB", (50, 31), (255, 51, 0))
    pixels = preprocess(image, (32, 48), "bicubic", mean, std)
    assert pixels.shape == (3, 32, 48)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    for channel, value in enumerate((1.0, 0.2, 0.0)):
        expected = (value - mean[channel]) / std[channel]
        torch.testing.assert_close(
            pixels[channel], torch.full((32, 48), expected), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(28, 42), (70, 56), (37, 53)])
def test_it_equals_torchvision_to_the_bit(interpolation, size):
    """Sizes above, below and equal to the image's; the image is squashed, not cropped."""
    image = photo()
    official = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode(interpolation)),
            transforms.ToTensor(),
            transforms.Normalize(*CLIP),
        ]
    )
    assert torch.equal(preprocess(image, size, interpolation, *CLIP), official(image))


def test_the_interpolations_differ():
    image = photo()
    cubic, linear = (preprocess(image, (70, 70), mode, *PLAIN) for mode in ("bicubic", "bilinear"))
    assert (cubic - linear).abs().max() > 0.05


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_eight_bit_modes_are_pils_own_rgb(mode):
    image = photo().convert(mode) if mode != "LAB" else Image.new("LAB", (53, 37), (128, 30, 40))
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(preprocess(image, (37, 53), "bilinear", *PLAIN), expected)


def test_grey_becomes_three_equal_channels():
    pixels = preprocess(photo().convert("L"), (28, 28), "bicubic", *PLAIN)
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])


def test_opaque_alpha_changes_nothing():
    image = photo()
    opaque = image.convert("RGBA")
    assert torch.equal(
        preprocess(opaque, (28, 28), "bicubic", *CLIP),
        preprocess(image, (28, 28), "bicubic", *CLIP),
    )


def test_sixteen_bits_and_transparency_become_rgb_as_everywhere():
    """`to_rgb` converts them; tests/datasets/test_read_images.py checks it in full."""
    grey = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    shallow = preprocess(Image.fromarray(grey), (28, 42), "bicubic", *PLAIN)
    assert torch.equal(preprocess(deep, (28, 42), "bicubic", *PLAIN), shallow)
    half = Image.new("RGBA", (8, 8), (200, 100, 50, 255))
    half.paste((200, 100, 50, 0), (0, 0, 8, 4))
    assert (preprocess(half, (8, 8), "bilinear", *PLAIN)[:, :4] == 1).all()


def test_all_bits_are_resized_as_numbers():
    """A ramp of 4096 levels keeps its levels, and equals the 8-bit path within its rounding."""
    ramp = np.tile(np.arange(4096, dtype=np.float32) / 4095, (4, 1))
    fine = preprocess(ramp, (4, 2048), "bilinear", *PLAIN)
    assert fine.shape == (3, 4, 2048)
    assert len(torch.unique(fine[0])) > 2000
    eight = Image.fromarray(np.rint(ramp * 255).astype(np.uint8))
    coarse = preprocess(eight, (4, 2048), "bilinear", *PLAIN)
    assert len(torch.unique(coarse[0])) <= 256
    assert (fine - coarse).abs().max() <= 1.01 / 255
    steps = (np.arange(12 * 12).reshape(12, 12) % 2).astype(np.float32)
    assert preprocess(steps, (7, 9), "bicubic", *PLAIN).min() >= 0
    assert preprocess(steps, (7, 9), "bicubic", *PLAIN).max() <= 1


def test_the_given_image_is_not_changed():
    image = photo()
    before = image.tobytes()
    preprocess(image, (28, 28), "bicubic", *CLIP)
    assert image.tobytes() == before
