from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rsrnet.config import ConfigError
from rsrnet.losses import LossConfig, RSRNetLoss, bce_loss, iou_loss, ssim_loss


@dataclass
class Output:
    masks: Tensor
    m_fnl: Tensor


def random_batch(
    batch: int = 3, k: int = 4, height: int = 20, width: int = 17, seed: int = 0
) -> tuple[Output, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(batch, k + 1, height, width, dtype=torch.float64, generator=generator)
    target = (torch.rand(batch, 1, height, width, generator=generator) > 0.6).double()
    return Output(masks[:, :k], masks[:, k:]), target


def plain_ssim(mask: Tensor, target: Tensor) -> Tensor:
    """SSIM of one mask of a batch, (B, 1, H, W), with 2-D convolutions as it is usually written."""
    line = torch.tensor([math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)], dtype=torch.float64)
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def local_mean(x: Tensor) -> Tensor:
        return functional.conv2d(x, window, padding=5)

    mu1, mu2 = local_mean(mask), local_mean(target)
    var1 = local_mean(mask * mask) - mu1 * mu1
    var2 = local_mean(target * target) - mu2 * mu2
    cov = local_mean(mask * target) - mu1 * mu2
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mu1 * mu2 + c1) * (2 * cov + c2) / ((mu1**2 + mu2**2 + c1) * (var1 + var2 + c2))
    return ssim.mean()


def plain_loss(output: Output, target: Tensor, lambda_: float) -> Tensor:
    """Eq. 3 as a loop over masks and images."""
    k = output.masks.shape[1]
    weighted = [(lambda_ ** (k - i), output.masks[:, i - 1 : i]) for i in range(1, k + 1)]
    total = torch.zeros((), dtype=torch.float64)
    for weight, mask in [*weighted, (1.0, output.m_fnl)]:
        bce = functional.binary_cross_entropy(mask, target)
        ious = []
        for m, t in zip(mask, target, strict=True):
            intersection = (m * t).sum()
            ious.append(intersection / (m.sum() + t.sum() - intersection))
        total = total + weight * (bce + 1 - plain_ssim(mask, target) + 1 - torch.stack(ious).mean())
    return total


def value_and_gradient(loss: Tensor, output: Output) -> tuple[float, Tensor]:
    inputs = [x for x in (output.masks, output.m_fnl) if x.numel()]
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, inputs)])


@pytest.mark.parametrize("lambda_", [0.8, 0.3, 1.0])
@pytest.mark.parametrize(
    ("k", "height", "width"), [(4, 20, 17), (0, 20, 17), (1, 32, 32), (3, 5, 7), (2, 1, 40), (1, 64, 131)]
)
def test_value_and_gradient_equal_the_convolution_formulation(
    lambda_: float, k: int, height: int, width: int
) -> None:
    output, target = random_batch(k=k, height=height, width=width)
    output.masks.requires_grad_()
    output.m_fnl.requires_grad_()

    value, gradient = value_and_gradient(RSRNetLoss(LossConfig(lambda_))(output, target).total, output)

    plain_value, plain_gradient = value_and_gradient(plain_loss(output, target, lambda_), output)
    assert value == pytest.approx(plain_value, abs=1e-6)  # IoU's epsilon is the difference
    torch.testing.assert_close(gradient, plain_gradient, rtol=1e-4, atol=1e-7)


def test_gradient_equals_finite_differences() -> None:
    masks, target = random_batch(batch=2, k=2, height=6, width=5)
    inputs = torch.cat([masks.masks, masks.m_fnl], dim=1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: RSRNetLoss()(Output(x[:, :2], x[:, 2:]), target).total, inputs, eps=1e-7, rtol=1e-3
    )


def test_float32_is_as_good_as_float64() -> None:
    output, target = random_batch(height=64, width=64)
    single = RSRNetLoss()(Output(output.masks.float(), output.m_fnl.float()), target.float())
    assert single.total.dtype == torch.float32
    assert single.total.item() == pytest.approx(RSRNetLoss()(output, target).total.item(), rel=1e-5)


def test_autocast_and_fast_matmul_change_nothing() -> None:
    output, target = random_batch(height=64, width=64)
    output = Output(output.masks.float(), output.m_fnl.float())
    expected = RSRNetLoss()(output, target.float()).total
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = RSRNetLoss()(output, target.float()).total
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert total.dtype == torch.float32
    assert torch.equal(total, expected)


def test_bfloat16_masks_are_compared_in_float32() -> None:
    output, target = random_batch()
    rounded = Output(output.masks.bfloat16(), output.m_fnl.bfloat16())
    widened = Output(rounded.masks.float(), rounded.m_fnl.float())
    assert torch.equal(RSRNetLoss()(rounded, target).total, RSRNetLoss()(widened, target).total)


def test_terms_are_detached_parts_of_the_total() -> None:
    output, target = random_batch()
    output.masks.requires_grad_()
    terms = RSRNetLoss()(output, target)
    assert terms.total.requires_grad
    assert not any(x.requires_grad for x in (terms.bce, terms.ssim, terms.iou, terms.final))
    torch.testing.assert_close(terms.bce + terms.ssim + terms.iou, terms.total.detach())


def test_final_is_the_loss_of_the_final_mask_alone() -> None:
    output, target = random_batch()
    alone = Output(output.masks[:, :0], output.m_fnl)
    torch.testing.assert_close(RSRNetLoss()(output, target).final, RSRNetLoss()(alone, target).total)


def test_each_earlier_mask_weighs_lambda_times_less() -> None:
    output, target = random_batch(k=3)
    output.masks = output.m_fnl.repeat(1, 3, 1, 1)
    terms = RSRNetLoss(LossConfig(0.5))(output, target)
    torch.testing.assert_close(terms.total, (0.25 + 0.5 + 1 + 1) * terms.final)


@settings(max_examples=20)
@given(batch=st.integers(1, 5), k=st.integers(0, 3), seed=st.integers(0, 99))
def test_batch_loss_is_the_mean_over_its_images(batch: int, k: int, seed: int) -> None:
    output, target = random_batch(batch, k, height=9, width=12, seed=seed)
    singles = [
        RSRNetLoss()(Output(output.masks[i : i + 1], output.m_fnl[i : i + 1]), target[i : i + 1]).total
        for i in range(batch)
    ]
    torch.testing.assert_close(RSRNetLoss()(output, target).total, torch.stack(singles).mean())


@settings(max_examples=30)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 1), st.integers(0, 99))
def test_terms_keep_their_bounds_at_any_size(height: int, width: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, 3, height, width, generator=generator)
    target = (torch.rand(2, 1, height, width, generator=generator) < share).float()
    assert (bce_loss(masks, target) >= 0).all()
    assert ((iou_loss(masks, target) >= -1e-6) & (iou_loss(masks, target) <= 1 + 1e-6)).all()
    assert ((ssim_loss(masks, target) >= -1e-5) & (ssim_loss(masks, target) <= 2)).all()


@pytest.mark.parametrize("truth", ["empty", "full", "half"])
def test_perfect_masks_cost_nothing(truth: str) -> None:
    target = {"empty": torch.zeros, "full": torch.ones, "half": torch.zeros}[truth](2, 1, 16, 16)
    if truth == "half":
        target[..., :8] = 1
    terms = RSRNetLoss()(Output(target.repeat(1, 2, 1, 1), target), target)
    assert terms.total.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("truth", [0.0, 1.0])
@pytest.mark.parametrize("probability", [0.0, 1.0, 1e-30])
def test_saturated_masks_give_finite_loss_and_gradient(truth: float, probability: float) -> None:
    target = torch.full((2, 1, 16, 16), truth)
    mask = torch.full((2, 3, 16, 16), probability, requires_grad=True)
    terms = RSRNetLoss()(Output(mask[:, :2], mask[:, 2:]), target)
    terms.total.backward()
    assert terms.total.isfinite()
    assert mask.grad is not None
    assert mask.grad.isfinite().all()


def test_cross_entropy_is_cut_at_one_hundred() -> None:
    assert bce_loss(torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 3, 3)).tolist() == [[100.0, 100.0]]


@given(st.floats(0, 1, width=32, exclude_max=True), st.floats(0, 1, width=32))
def test_cross_entropy_and_its_gradient_equal_those_of_torch(probability: float, truth: float) -> None:
    target = torch.full((1, 1, 1, 1), truth)
    pairs = []
    for loss in (bce_loss, functional.binary_cross_entropy):
        mask = torch.full((1, 1, 1, 1), probability, requires_grad=True)
        value = loss(mask, target).sum()
        pairs.append((value.detach(), *torch.autograd.grad(value, mask)))
    torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-4, atol=2e-7)


def test_loss_of_a_diverged_network_is_nan() -> None:
    mask = torch.full((1, 1, 8, 8), torch.nan)
    assert RSRNetLoss()(Output(mask, mask), torch.ones(1, 1, 8, 8)).total.isnan()


def test_rounding_above_one_is_accepted() -> None:
    mask = torch.full((1, 1, 8, 8), 1.0 + 2e-7)
    assert RSRNetLoss()(Output(mask, mask), torch.ones(1, 1, 8, 8)).total.isfinite()


def test_training_works_after_a_first_use_in_inference_mode() -> None:
    mask = torch.rand(1, 1, 13, 29)  # a size no other test uses: nothing is cached for it
    with torch.inference_mode():
        RSRNetLoss()(Output(mask, mask), torch.ones(1, 1, 13, 29))
    mask.requires_grad_()
    RSRNetLoss()(Output(mask, mask), torch.ones(1, 1, 13, 29)).total.backward()
    assert mask.grad is not None


def test_target_of_another_shape_is_refused() -> None:
    output, target = random_batch()
    with pytest.raises(ValueError, match=r"target is \(3, 20, 17\)"):
        RSRNetLoss()(output, target[:, 0])


@pytest.mark.parametrize("lambda_", [0.0, -0.1, 1.01, math.nan])
def test_impossible_lambda_is_refused_by_name(lambda_: float) -> None:
    with pytest.raises(ConfigError) as caught:
        LossConfig(lambda_)
    assert [problem.field for problem in caught.value.problems] == ["lambda_"]
