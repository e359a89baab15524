"""Iterations one by one and early exit, against a loop over whole runs of single images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rsrnet import Localizer, checkpoint
from rsrnet.model.config import ABLATIONS, RSRNetConfig, ablation
from rsrnet.model.network import RSRNet, RSRNetOutput
from rsrnet.model.recurrence import IterationsError

SMALL = RSRNetConfig(depth=18, width=8, iterations=3)
WITH_LOOP = sorted(set(ABLATIONS) - {"unet"})
K = 9


def network(row: str = "full") -> RSRNet:
    torch.manual_seed(0)
    model = RSRNet(ablation(row, SMALL)).eval()
    if model.reasoning is not None:  # an untrained head hardly moves the mask
        for parameter in getattr(model.reasoning, "residual", model.reasoning).parameters():
            parameter.data *= 4
    return model


def pictures(count: int = 5, height: int = 40, width: int = 56) -> Tensor:
    """From flat grey to strong contrast, so that some masks come to rest sooner than others."""
    generator = torch.Generator().manual_seed(3)
    contrast = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return 0.5 + contrast * (torch.rand(count, 3, height, width, generator=generator) - 0.5)


def assert_same(actual: RSRNetOutput, expected: RSRNetOutput) -> None:
    for name in ("masks", "m_rsr", "m_dec", "m_fnl", "changes", "iterations"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=1e-4, atol=1e-5)


def tolerance_that_divides(model: RSRNet, images: Tensor) -> float:
    """A tolerance at which, after some iteration, part of the images stands still; far from every change."""
    changes = model(images, K).changes.unique()
    changes = changes[: len(changes) // 2 + 1]
    gaps = changes.diff()
    return float(changes[gaps.argmax()] + gaps.max() / 2)


@torch.no_grad()
@pytest.mark.parametrize("row", WITH_LOOP)
def test_unrolled_gives_what_runs_of_every_length_give(row: str) -> None:
    model, images = network(row), pictures(2)
    outputs = list(model.unrolled(images, K))
    assert len(outputs) == K
    for k, output in enumerate(outputs, start=1):
        assert_same(output, model(images, iterations=k))
    assert len(list(model.unrolled(images))) == SMALL.iterations


@torch.no_grad()
@pytest.mark.parametrize("row", WITH_LOOP)
def test_early_exit_is_a_plain_loop_over_single_images(row: str) -> None:
    model, images = network(row), pictures()
    tolerance = tolerance_that_divides(model, images)
    output = model(images, K, tolerance)
    for index in range(len(images)):
        image = images[index : index + 1]
        changes = model(image, K).changes[0]
        still = (changes <= tolerance).nonzero().flatten()
        expected = int(still[0]) + 1 if len(still) else K
        assert output.iterations[index] == expected
        alone = model(image, iterations=expected)
        for name in ("m_rsr", "m_dec", "m_fnl"):
            torch.testing.assert_close(getattr(output, name)[index], getattr(alone, name)[0])
        torch.testing.assert_close(output.masks[index, :expected], alone.masks[0])
        assert (output.masks[index, expected:] == output.m_rsr[index]).all()
        assert (output.changes[index, expected:] == 0).all()
    assert output.masks.shape[1] == output.iterations.max()
    assert 1 <= output.iterations.min() < K


@torch.no_grad()
def test_images_leave_at_different_times_and_spare_the_work() -> None:
    model, images = network(), pictures()
    seen: list[int] = []
    model.reasoning.mask_conv.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    output = model(images, K, tolerance_that_divides(model, images))
    taken = output.iterations.tolist()
    assert len(set(taken)) > 1
    assert seen[-len(output.changes[0]) :] == [
        sum(k <= each for each in taken) for k in range(1, max(taken) + 1)
    ]


@torch.no_grad()
def test_an_images_masks_do_not_depend_on_its_batch() -> None:
    model, images = network(), pictures()
    tolerance = tolerance_that_divides(model, images)
    together = model(images, K, tolerance)
    order = torch.tensor([4, 0, 2])
    apart = model(images[order], K, tolerance)
    assert apart.iterations.tolist() == together.iterations[order].tolist()
    for name in ("m_rsr", "m_dec", "m_fnl"):
        torch.testing.assert_close(getattr(apart, name), getattr(together, name)[order])


@torch.no_grad()
@pytest.mark.parametrize("row", WITH_LOOP)
def test_no_tolerance_and_one_that_nothing_meets_are_the_full_run(row: str) -> None:
    model, images = network(row), pictures()[1:]
    full = model(images, 4)
    assert (full.iterations == 4).all()
    smallest = float(full.changes.min())
    if smallest > 0:  # the similarity map alone repeats itself
        assert_same(model(images, 4, smallest / 2), full)
    assert_same(model(images, SMALL.iterations), model(images))


@torch.no_grad()
def test_changes_are_those_of_the_modules_masks() -> None:
    model, images = network(), pictures(3)
    masks = model.reasoning(model.encoder(model._prepare(images))[3], K).masks
    before = torch.cat([torch.zeros_like(masks[:, :1]), masks[:, :-1]], dim=1)
    expected = (masks - before).abs().flatten(2).max(dim=2).values
    torch.testing.assert_close(model(images, K).changes, expected)


@torch.no_grad()
def test_without_loop_there_is_nothing_to_choose() -> None:
    model, images = network("unet"), pictures(2)
    output = model(images)
    assert output.changes.shape == (2, 0)
    assert output.iterations.tolist() == [0, 0]
    for options in ({"iterations": 3}, {"tolerance": 0.1}):
        with pytest.raises(IterationsError, match="without RSR module"):
            model(images, **options)
    with pytest.raises(IterationsError, match="without RSR module"):
        model.unrolled(images)


def test_impossible_iterations_and_tolerances_are_refused() -> None:
    model, images = network(), pictures(1)
    for options, message in (
        ({"iterations": 0}, "iterations = 0: a whole number, at least 1"),
        ({"tolerance": -0.1}, r"tolerance = -0\.1: a number from 0"),
        ({"tolerance": 1.0}, r"tolerance = 1\.0: a number from 0"),
    ):
        with pytest.raises(IterationsError, match=message):
            model(images, **options)
    with pytest.raises(IterationsError, match="at least 1"):
        model.unrolled(images, 0)
    with pytest.raises(IterationsError, match="call eval"):
        model.train()(images, tolerance=0.1)


def test_localizer_stops_early_and_says_what_it_cannot_follow(tmp_path) -> None:
    model, images = network(), pictures()
    checkpoint.save(tmp_path / "full", model, checkpoint.ModelCard(model.config, size=40))
    arrays = [(image * 255).byte().permute(1, 2, 0).numpy() for image in images]
    with torch.no_grad():
        tolerance = tolerance_that_divides(
            model, torch.stack([torch.from_numpy(a) for a in arrays]).permute(0, 3, 1, 2) / 255
        )
    longer = Localizer(tmp_path / "full", device="cpu", iterations=K)(arrays)
    early = Localizer(tmp_path / "full", device="cpu", iterations=K, tolerance=tolerance)(arrays)
    usual = Localizer(tmp_path / "full", device="cpu")(arrays)
    assert any(abs(a - b).max() > 1e-4 for a, b in zip(longer, usual, strict=True))
    assert any(abs(a - b).max() > 1e-4 for a, b in zip(longer, early, strict=True))
    with pytest.raises(IterationsError, match="tolerance = 2"):
        Localizer(tmp_path / "full", tolerance=2)
    unet = network("unet")
    checkpoint.save(tmp_path / "unet", unet, checkpoint.ModelCard(unet.config, size=40))
    with pytest.raises(IterationsError, match="without RSR module"):
        Localizer(tmp_path / "unet", iterations=4)
