"""Everything that makes `rsrnet` fast, against the plain form: values and gradients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rsrnet.losses import RSRNetLoss
from rsrnet.model.config import ABLATIONS, RSRNetConfig, ablation
from rsrnet.model.decoder import FEW_PIXELS, enlarging_conv
from rsrnet.model.double_conv import conv_norm
from rsrnet.model.lean import convolve_joined, join, norm_relu_conv
from rsrnet.model.network import RSRNet
from rsrnet.model.pixelwise import PixelConv
from rsrnet.validation import autocast

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from plain_rsrnet import both, plain_loss

SMALL = RSRNetConfig(depth=18, width=8, iterations=4)


def batch(count: int = 3, side: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, side, side, generator=generator)
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, 10:40, 20:50] = 1
    images[:, :1] += 0.3 * masks
    return images.clamp(max=1), masks


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize("training", [True, False])
def test_masks_are_those_of_the_plain_form(training: bool) -> None:
    torch.manual_seed(0)
    ours, plain = both(SMALL, times=4)
    images, _ = batch()
    ours.train(training)
    plain.train(training)
    with torch.no_grad():
        found, expected = ours(images), plain(images)
    for name in ("masks", "m_rsr", "m_dec", "m_fnl"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)
    for name, value in plain.state_dict().items():  # running statistics
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_loss_and_every_gradient_are_those_of_the_plain_form(checkpointed: bool) -> None:
    """Within rounding, which puts a pixel on the other side of a ReLU now and then: of the order of 0.001 each."""
    torch.manual_seed(0)
    ours, plain = both(SMALL, times=4)
    images, target = batch()
    ours.checkpoint_iterations = checkpointed
    loss = RSRNetLoss()(ours(images), target).total
    output = plain(images)
    expected = plain_loss(torch.cat([output.masks, output.m_fnl], dim=1), target)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    found = gradients(ours, loss)
    for name, value in gradients(plain, expected).items():
        assert relative_error(found[name], value) < 2e-2, name


def test_in_bfloat16_gradients_are_as_near_to_those_of_float32_as_the_plain_forms() -> None:
    torch.manual_seed(0)
    ours, plain = both(SMALL, times=4)
    images, target = batch()

    def all_gradients(model: nn.Module, precision: str) -> Tensor:
        with autocast(torch.device("cpu"), precision):
            output = model(images)
        loss = plain_loss(torch.cat([output.masks, output.m_fnl], dim=1).float(), target)
        found = gradients(model, loss)
        return torch.cat([found[name].flatten() for name, _ in plain.named_parameters()])

    expected = all_gradients(plain, "float32")
    plainly = relative_error(all_gradients(plain, "bfloat16"), expected)
    assert 0 < plainly < 0.2
    assert relative_error(all_gradients(ours, "bfloat16"), expected) < 1.2 * plainly


@pytest.mark.parametrize("row", [row for row in ABLATIONS if row != "unet"])
def test_checkpointed_iterations_keep_less_and_change_no_gradient(row: str) -> None:
    torch.manual_seed(0)
    model = RSRNet(ablation(row, SMALL))
    images, target = batch()

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        loss = RSRNetLoss()(model(images), target).total
        return loss.detach(), gradients(model, loss)

    loss, expected = run()
    everything = kept_bytes(lambda: model(images).m_fnl)
    model.checkpoint_iterations = True
    again, found = run()
    assert torch.equal(again, loss)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    if row != "similarity_only":  # whose iterations have hardly an inside
        assert kept_bytes(lambda: model(images).m_fnl) < everything


def value_and_gradients(value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view(value.shape)
    return [value, *torch.autograd.grad((value * weights).sum(), inputs)]


def kept_bytes(make: Callable[[], Tensor]) -> int:
    """What stays allocated while the result waits for its backward pass."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        value = make()
    events = recorded.profiler.kineto_results.events()
    kept = sum(event.nbytes() for event in events if event.name() == "[memory]")
    assert value.requires_grad
    return kept


@pytest.mark.parametrize("side", [3, 40])
def test_enlarging_convolution_is_upsampling_and_a_convolution(side: int) -> None:
    """Values and gradients, below and above the size from which on it is one transposed convolution."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, 3, padding=1).double()
    x = torch.randn(2, 6, side, side + 1, dtype=torch.float64, requires_grad=True)
    inputs = [x, *conv.parameters()]
    found = value_and_gradients(enlarging_conv(x, conv), inputs)
    plain = value_and_gradients(conv(F.interpolate(x, scale_factor=2, mode="nearest")), inputs)
    assert (2 * side * (side + 1) > FEW_PIXELS) == (side == 40)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("training", [True, False])
def test_norm_relu_conv_is_the_three_in_a_row(training: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 9, 8, dtype=torch.float64, requires_grad=True)
    norms = [nn.BatchNorm2d(6).double().train(training) for _ in range(2)]
    for norm in norms:
        norm.weight.data = torch.linspace(-1, 2, 6).double()
        norm.bias.data = torch.linspace(0.5, -0.5, 6).double()
        norm.running_mean = torch.linspace(-0.1, 0.3, 6).double()
    conv = nn.Conv2d(6, 5, 3, padding=1, bias=False).double()
    found = value_and_gradients(norm_relu_conv(x, norms[0], conv), [x, *norms[0].parameters(), conv.weight])
    plain = value_and_gradients(conv(F.relu(norms[1](x))), [x, *norms[1].parameters(), conv.weight])
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(norms[0].buffers(), norms[1].buffers(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("side", [4, 40])
@pytest.mark.parametrize("stride", [1, 2])
def test_norm_is_part_of_the_convolution_in_evaluation(side: int, stride: int) -> None:
    """Below and above the size from which on it is worth it."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, 3, stride, padding=1, bias=False).double()
    norm = nn.BatchNorm2d(5).double().eval()
    norm.weight.data = torch.linspace(-1, 2, 5).double()
    norm.bias.data = torch.linspace(0.5, -0.5, 5).double()
    norm.running_mean, norm.running_var = (
        torch.linspace(-1, 1, 5).double(),
        torch.linspace(0.2, 3, 5).double(),
    )
    x = torch.randn(2, 6, side, side + 2, dtype=torch.float64)
    plain = norm(conv(x))
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as recorded:
        found = conv_norm(x, conv, norm)
    torch.testing.assert_close(found, plain)
    normalised = any("batch_norm" in event.key for event in recorded.key_averages())
    assert normalised == (side == 4)
    torch.testing.assert_close(conv_norm(x, conv, norm.train()), norm(conv(x)))


def test_joined_convolution_is_that_of_the_concatenation_and_keeps_no_copy() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, channels, 16, 16, requires_grad=True) for channels in (3, 4)]
    conv = nn.Conv2d(7, 2, 3, padding=1)
    inputs = [*parts, *conv.parameters()]
    found = value_and_gradients(convolve_joined(parts, conv), inputs)
    plain = value_and_gradients(conv(torch.cat(parts, dim=1)), inputs)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    spared = kept_bytes(lambda: conv(torch.cat(parts, 1))) - kept_bytes(lambda: convolve_joined(parts, conv))
    assert spared == 2 * 7 * 16 * 16 * 4


@pytest.mark.parametrize("row", ABLATIONS)
def test_gradients_lie_in_memory_as_their_parameters(row: str) -> None:
    """Otherwise DDP copies them, and warns of it in each training."""
    network = RSRNet(replace(ablation(row), depth=18, width=8, iterations=2))
    RSRNetLoss()(network(batch()[0]), batch()[1]).total.backward()
    lie = {name: parameter.stride() for name, parameter in network.named_parameters()}
    assert {name: parameter.grad.stride() for name, parameter in network.named_parameters()} == lie


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
def test_pixelwise_convolution_is_a_convolution(stride: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    pixelwise = PixelConv(6, 5, stride=stride)
    x = torch.randn(2, 6, 9, 12).contiguous(memory_format=memory_format).requires_grad_()
    inputs = [x, pixelwise.weight, pixelwise.bias]
    found = value_and_gradients(pixelwise(x), inputs)
    plain = value_and_gradients(F.conv2d(x, pixelwise.weight, pixelwise.bias, stride=stride), inputs)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_joined_maps_lie_as_their_parts(memory_format: torch.memory_format) -> None:
    parts = [torch.randn(2, channels, 5, 6).contiguous(memory_format=memory_format) for channels in (3, 4)]
    parts.insert(1, torch.randn(2, 1, 5, 6))
    joined = join(parts)
    torch.testing.assert_close(joined, torch.cat(parts, dim=1), rtol=0, atol=0)
    assert joined.is_contiguous(memory_format=memory_format)
