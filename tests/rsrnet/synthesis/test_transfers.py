"""The colour transfers, each against the plain statement of what it promises."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage import color

from rsrnet.synthesis.regrain import regrain
from rsrnet.synthesis.transfers import TRANSFERS, fecker, pitie, reinhard, transfer_distribution, xiao_ma

ALL = pytest.mark.parametrize("transfer", TRANSFERS.values(), ids=lambda transfer: transfer.__name__)


def picture(
    seed: int, mean: tuple[int, int, int], spread: float, shape: tuple[int, int] = (48, 60)
) -> np.ndarray:
    """Smooth correlated noise in the middle of the range, so that nothing is clipped."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((*shape, 3)), (2, 2, 0))
    mixed = noise / noise.std() @ np.array([[1.0, 0.6, 0.3], [0.2, 0.8, 0.4], [0.1, 0.2, 0.5]])
    return np.clip(np.rint(mixed * spread + mean), 0, 255).astype(np.uint8)


def square(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


IMAGE, MASK = picture(0, (120, 110, 90), 14), square((48, 60), 8, 10, 30)
REFERENCE, REFERENCE_MASK = picture(1, (140, 120, 130), 10, (40, 40)), square((40, 40), 5, 5, 28)


def run(transfer, image=IMAGE, mask=MASK, reference=REFERENCE, reference_mask=REFERENCE_MASK):
    return transfer(image, mask, reference, reference_mask, np.random.default_rng(7))


def ks_distance(first: np.ndarray, second: np.ndarray) -> float:
    return max(stats.ks_2samp(first[:, c], second[:, c]).statistic for c in range(3))


@ALL
def test_only_the_foreground_changes(transfer):
    before = IMAGE.copy()
    result = run(transfer)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[~MASK], IMAGE[~MASK])
    assert np.abs(result[MASK].astype(int) - IMAGE[MASK]).mean() > 5
    np.testing.assert_array_equal(IMAGE, before)


@ALL
def test_own_colours_as_reference_change_almost_nothing(transfer):
    result = run(transfer, reference=IMAGE, reference_mask=MASK)
    assert np.abs(result.astype(int) - IMAGE).max() <= 3


@ALL
def test_same_seed_gives_same_bytes(transfer):
    np.testing.assert_array_equal(run(transfer), run(transfer))


@ALL
@pytest.mark.parametrize("constant", ["target", "reference", "both"])
def test_constant_colours_land_within_the_colours_of_the_reference(transfer, constant):
    image = np.full_like(IMAGE, 77) if constant != "reference" else IMAGE
    reference = np.full_like(REFERENCE, 150) if constant != "target" else REFERENCE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(transfer, image=image, reference=reference)
    # Regraining keeps gradients, so a textured foreground stays textured and only its mean can be compared.
    mean, allowed = result[MASK].mean(0), reference[REFERENCE_MASK]
    assert (mean >= allowed.min(0) - 4.0).all()
    assert (mean <= allowed.max(0) + 4.0).all()


@ALL
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_foregrounds_raise_no_numerical_warning(transfer, level):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(transfer, image=np.full_like(IMAGE, level))
        run(transfer, reference=np.full_like(REFERENCE, level))


@ALL
def test_grey_photographs_stay_grey(transfer):
    grey_image, grey_reference = (np.repeat(image[..., :1], 3, axis=2) for image in (IMAGE, REFERENCE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(transfer, image=grey_image, reference=grey_reference)[MASK].astype(int)
    assert np.ptp(result, axis=1).max() <= 6


@ALL
def test_a_single_pixel_takes_part(transfer):
    run(transfer, mask=square(MASK.shape, 3, 3, 1))
    run(transfer, reference_mask=square(REFERENCE_MASK.shape, 3, 3, 1))


@ALL
def test_empty_mask_is_refused(transfer):
    with pytest.raises(ValueError, match="selects no pixel"):
        run(transfer, mask=np.zeros_like(MASK))


@ALL
def test_mask_of_another_size_is_refused(transfer):
    with pytest.raises(ValueError, match=r"\(48, 60, 3\).*\(48, 59\)"):
        run(transfer, mask=MASK[:, 1:])


def ruderman_lab(colours: np.ndarray) -> np.ndarray:
    """Reinhard's lab, written out per channel."""
    r, g, b = (colours.astype(float) / 255).T
    long = np.log10(0.3811 * r + 0.5783 * g + 0.0402 * b)
    medium = np.log10(0.1967 * r + 0.7244 * g + 0.0782 * b)
    short = np.log10(0.0241 * r + 0.1288 * g + 0.8444 * b)
    lab = [
        (long + medium + short) / 3**0.5,
        (long + medium - 2 * short) / 6**0.5,
        (long - medium) / 2**0.5,
    ]
    return np.stack(lab, axis=1)


def test_reinhard_reaches_the_mean_and_deviation_of_the_reference_in_lab():
    result, reference = ruderman_lab(run(reinhard)[MASK]), ruderman_lab(REFERENCE[REFERENCE_MASK])
    np.testing.assert_allclose(result.mean(0), reference.mean(0), atol=2e-3)
    np.testing.assert_allclose(result.std(0), reference.std(0), rtol=0.05, atol=1e-3)


def test_xiao_ma_reaches_the_mean_and_covariance_of_the_reference():
    result, reference = run(xiao_ma)[MASK], REFERENCE[REFERENCE_MASK]
    np.testing.assert_allclose(result.mean(0), reference.mean(0), atol=0.2)
    np.testing.assert_allclose(np.cov(result.T), np.cov(reference.T), rtol=0.03, atol=1)


def test_xiao_ma_mirrors_no_axis():
    brighter = np.clip(IMAGE.astype(int) + 40, 0, 255).astype(np.uint8)
    result = run(xiao_ma, reference=brighter, reference_mask=MASK)
    assert np.abs(result[MASK].astype(int) - brighter[MASK]).max() <= 1


def test_fecker_reaches_the_cumulative_histograms_of_the_reference():
    # scikit-image's YCbCr has the same studio range.
    before, after = (color.rgb2ycbcr(image)[MASK] for image in (IMAGE, run(fecker)))
    reference = color.rgb2ycbcr(REFERENCE)[REFERENCE_MASK]
    # Levels are whole numbers, rounded on the way to YCbCr and back.
    for channel in range(3):
        for quantile in (0.1, 0.5, 0.9):
            wanted = np.quantile(reference[:, channel], quantile)
            assert abs(np.quantile(after[:, channel], quantile) - wanted) <= 2.5
    assert ks_distance(before, reference) > 0.5


def test_distribution_transfer_reaches_the_distribution_of_the_reference():
    target, reference = IMAGE[MASK] / 255, REFERENCE[REFERENCE_MASK] / 255
    result = transfer_distribution(target, reference, np.random.default_rng(0))
    assert ks_distance(target, reference) > 0.4
    assert ks_distance(result, reference) < 0.06
    # Along a direction that is no colour axis, too: the joint distribution is matched, not three marginals.
    oblique = np.array([[1.0, -1.0, 0.5]]).T
    assert stats.ks_2samp((result @ oblique)[:, 0], (reference @ oblique)[:, 0]).statistic < 0.08


def test_pitie_reaches_the_mean_of_the_reference_and_keeps_the_edges():
    result, reference = run(pitie)[MASK].astype(float), REFERENCE[REFERENCE_MASK].astype(float)
    assert np.abs(result.mean(0) - reference.mean(0)).max() < 4
    assert all(np.corrcoef(result[:, c], IMAGE[MASK][:, c])[0, 1] > 0.7 for c in range(3))


def test_regraining_an_unchanged_image_changes_nothing():
    image = IMAGE / 255
    np.testing.assert_allclose(regrain(image, image), image, atol=1e-6)


def test_regraining_takes_the_noise_off_but_keeps_the_new_colours():
    flat = np.full((50, 50, 3), 0.4)
    flat[:, 25:] = 0.6
    noise = 0.05 * np.random.default_rng(0).standard_normal(flat.shape)
    result = regrain(flat, flat + 0.2 + noise)
    inner = result[5:-5, 5:20]
    assert inner.std() < 0.5 * noise.std()
    assert result[5:-5, 5:45].mean() == pytest.approx((flat + 0.2)[5:-5, 5:45].mean(), abs=0.03)
    assert (result[:, 26] - result[:, 23]).mean() == pytest.approx(0.2, abs=0.06)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 57, 3), (43, 45, 3)])
def test_regraining_takes_any_size(shape):
    image = np.random.default_rng(0).random(shape)
    result = regrain(image, image * 0.5)
    assert result.shape == shape
    assert np.isfinite(result).all()
