"""augment against a slow version that loops over images and pixels, and its promises."""

from __future__ import annotations

import pytest
import torch

from archscout.augment import augment


def slow(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    flip: bool,
    shift: int,
    cutout: int,
    border="reflect",
    fill=None,
) -> torch.Tensor:
    """Pad, crop, flip and cover, one image after the other; the draws come in the documented order."""
    count, _, height, width = images.shape

    def draw(high: int) -> list[int]:
        return torch.randint(high, (count, 1), generator=generator).flatten().tolist()

    down, right = (draw(2 * shift + 1), draw(2 * shift + 1)) if shift else ([0] * count, [0] * count)
    turned = draw(2) if flip else [0] * count
    top, left = (draw(height), draw(width)) if cutout else ([0] * count, [0] * count)
    result = []
    for n in range(count):
        image = images[n].double()
        mean = image.mean((1, 2)) if fill is None else fill.double()
        if not images.is_floating_point():
            mean = mean.round()
        if shift:
            mode = "reflect" if border == "reflect" else "constant"
            padded = torch.nn.functional.pad(image[None], (shift,) * 4, mode=mode)[0]
            image = padded[:, down[n] : down[n] + height, right[n] : right[n] + width]
        image = torch.stack([torch.stack([row.flip(0) if turned[n] else row for row in c]) for c in image])
        if cutout:
            for y in range(top[n] - cutout // 2, top[n] - cutout // 2 + cutout):
                for x in range(left[n] - cutout // 2, left[n] - cutout // 2 + cutout):
                    if 0 <= y < height and 0 <= x < width:
                        image[:, y, x] = mean
        result.append(image)
    return torch.stack(result).to(images.dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (5, 3, 8, 6), (17, 1, 5, 9)])
@pytest.mark.parametrize(
    "how", [(True, 0, 0), (False, 3, 0), (False, 0, 3), (True, 2, 4), (True, 1, 1), (False, 3, 30)], ids=str
)
def test_equals_the_slow_version(dtype, shape, how):
    flip, shift, cutout = how
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    fast = augment(images, torch.Generator().manual_seed(7), flip=flip, shift=shift, cutout=cutout)
    want = slow(images, torch.Generator().manual_seed(7), flip=flip, shift=shift, cutout=cutout)
    assert fast.dtype == dtype
    assert fast.shape == images.shape
    torch.testing.assert_close(fast, want, rtol=0, atol=0 if dtype == torch.uint8 else 1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("how", [(True, 3, 0), (False, 2, 4), (True, 0, 3)], ids=str)
def test_zero_border_and_given_filling_equal_the_slow_version(dtype, how):
    flip, shift, cutout = how
    images = torch.randint(0, 256, (9, 3, 8, 6), generator=torch.Generator().manual_seed(3)).to(dtype)
    options = {
        "flip": flip,
        "shift": shift,
        "cutout": cutout,
        "border": "zero",
        "fill": torch.tensor([10.2, 99.5, 7.0]),
    }
    fast = augment(images, torch.Generator().manual_seed(7), **options)
    want = slow(images, torch.Generator().manual_seed(7), **options)
    torch.testing.assert_close(fast, want, rtol=0, atol=0 if dtype == torch.uint8 else 1e-3)


def test_the_area_of_cutout():
    """16 of 32 pixels, the centre anywhere, cut off at the border: 14 rows and 14 columns on average, 196 pixels."""
    images = torch.ones(8000, 1, 32, 32)
    covered = (augment(images, torch.Generator().manual_seed(0), cutout=16, fill=torch.zeros(1)) == 0).flatten(1).sum(1)
    rows = sum(min(centre + 8, 32) - max(centre - 8, 0) for centre in range(32)) / 32
    assert rows == 14
    assert float(covered.double().mean()) == pytest.approx(rows**2, abs=4 * float(covered.double().std()) / 8000**0.5)
    assert {int(covered.min()), int(covered.max())} == {64, 256}


def test_same_generator_state_same_result_and_nothing_else_is_touched():
    images = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8)
    before, state = images.clone(), torch.get_rng_state()
    options = {"flip": True, "shift": 2, "cutout": 5}
    one = augment(images, torch.Generator().manual_seed(1), **options)
    two = augment(images, torch.Generator().manual_seed(1), **options)
    other = augment(images, torch.Generator().manual_seed(2), **options)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.is_contiguous(memory_format=torch.channels_last)


def test_images_differ_within_a_batch_and_flips_are_half():
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    batch = augment(image.expand(2000, 1, 8, 8), torch.Generator().manual_seed(0), flip=True)
    turned = (batch == image.flip(3)).flatten(1).all(1)
    kept = (batch == image).flatten(1).all(1)
    assert bool((turned | kept).all())
    assert 0.45 < kept.double().mean() < 0.55
    moved = augment(image.expand(2000, 1, 8, 8), torch.Generator().manual_seed(0), shift=2)
    assert len(torch.unique(moved.flatten(1), dim=0)) == 25


def test_layout_of_the_input_makes_no_difference():
    images = torch.randint(0, 256, (8, 3, 12, 12), dtype=torch.uint8)
    last = images.contiguous(memory_format=torch.channels_last)
    options = {"flip": True, "shift": 3, "cutout": 4}
    one, two = (augment(x, torch.Generator().manual_seed(4), **options) for x in (images, last))
    assert torch.equal(one, two)


def test_without_options_and_with_wrong_ones():
    images = torch.rand(2, 3, 6, 6)
    assert torch.equal(augment(images, torch.Generator()), images)
    for wrong in ({"shift": 6}, {"shift": -1}, {"cutout": -2}):
        with pytest.raises(ValueError, match="shift"):
            augment(images, torch.Generator(), **wrong)
    with pytest.raises(ValueError, match="border is one of reflect, zero"):
        augment(images, torch.Generator(), border="wrap")
