from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import average_precision_score, f1_score, jaccard_score
from torch import Tensor

from rsrnet.average_precision import all_rows, row_by_row, sort_keys
from rsrnet.metrics import PUBLISHED, RAW, MetricSums, Protocol, image_metrics


def sklearn_ap(pred: Tensor, target: Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty truth is meant
        return float(average_precision_score(target.flatten().numpy(), pred.flatten().numpy()))


def random_batch(batch: int, size: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pred = torch.rand(batch, 1, size, size, generator=generator)
    target = (torch.rand(batch, 1, size, size, generator=generator) > 0.7).float()
    return pred, target


def one_row(pred: list[float], target: list[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(pred).view(1, 1, 1, -1), torch.tensor(target).view(1, 1, 1, -1)


ABOVE_ONE = float(np.float32(1 + 1e-7))  # as the convex upsampling may round

small_maps = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
        npst.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0])),
    )
)
maps_with_ties = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(
        npst.arrays(
            np.float32, shape, elements=st.sampled_from([-0.0, 0.0, 1e-40, 0.25, 0.5, 1.0, ABOVE_ONE])
        ),
        npst.arrays(np.float32, shape, elements=st.sampled_from([0.0, 1.0])),
    )
)


@given(st.one_of(small_maps, maps_with_ties))
def test_average_precision_equals_sklearn(maps: tuple[np.ndarray, np.ndarray]) -> None:
    pred, target = (torch.from_numpy(x)[None, None] for x in maps)
    assert image_metrics(pred, target, RAW).ap.item() == pytest.approx(sklearn_ap(pred, target), abs=1e-6)


@given(maps_with_ties)
def test_published_average_precision_equals_sklearn_on_the_stretched_map(
    maps: tuple[np.ndarray, np.ndarray],
) -> None:
    pred, target = (torch.from_numpy(x)[None, None] for x in maps)
    if target.all():
        target = torch.zeros_like(target)
    span = pred.max() - pred.min()
    stretched = pred - pred.min() if span < 0.01 else (pred - pred.min()) / span
    expected = sklearn_ap(stretched, target)
    assert image_metrics(pred, target, PUBLISHED).ap.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("levels", [2, 256, 2**20])
def test_average_precision_of_large_maps_equals_sklearn(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    target = (torch.rand(4, 1, 224, 224, generator=generator) > 0.8).float()
    pred = torch.rand(4, 1, 224, 224, generator=generator) * 0.7 + 0.3 * target
    pred = (pred * levels).round() / levels
    expected = [sklearn_ap(p, t) for p, t in zip(pred, target, strict=True)]
    np.testing.assert_allclose(image_metrics(pred, target, RAW).ap.numpy(), expected, rtol=0, atol=1e-6)


@st.composite
def batches_of_rows(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores and truths of a batch: few or many levels, and truths with no, one, some or all pixels true."""
    rows, pixels = draw(st.integers(1, 4)), draw(st.integers(1, 60))
    levels = draw(st.sampled_from([1, 2, 5, 1000]))
    steps = draw(npst.arrays(np.int64, (rows, pixels), elements=st.integers(0, levels)))
    scores = (steps / levels * np.float32(ABOVE_ONE)).astype(np.float32)
    if draw(st.booleans()):
        scores[scores == 0] = draw(st.sampled_from([-0.0, 1e-45]))
    truth = np.zeros((rows, pixels), dtype=bool)
    for row in truth:
        kind = draw(st.sampled_from(["none", "one", "some", "all"]))
        if kind == "one":
            row[draw(st.integers(0, pixels - 1))] = True
        elif kind == "some":
            row[:] = draw(npst.arrays(bool, pixels))
        else:
            row[:] = kind == "all"
    return torch.from_numpy(scores), torch.from_numpy(truth)


@pytest.mark.parametrize("implementation", [row_by_row, all_rows], ids=["CPU", "accelerator"])
@given(batches_of_rows())
def test_average_precision_of_every_row_equals_sklearn(
    implementation: Callable[[Tensor], Tensor], rows: tuple[Tensor, Tensor]
) -> None:
    scores, truth = rows
    expected = [sklearn_ap(p, t) if t.any() else 0.0 for p, t in zip(scores, truth, strict=True)]
    found = implementation(sort_keys(scores, truth))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)


def test_scoring_leaves_its_arguments_as_they_are() -> None:
    pred, target = random_batch(2)
    copies = pred.clone(), target.clone()
    for protocol in (RAW, PUBLISHED):
        image_metrics(pred, target, protocol)
    assert torch.equal(pred, copies[0])
    assert torch.equal(target, copies[1])


def test_raw_f1_and_iou_equal_sklearn() -> None:
    pred, target = random_batch(6)
    metrics = image_metrics(pred, target, RAW)
    for i in range(6):
        predicted, true = pred[i].flatten() > 0.5, target[i].flatten() > 0.5
        assert metrics.f1[i].item() == pytest.approx(f1_score(true, predicted), abs=2e-6)
        assert metrics.iou[i].item() == pytest.approx(jaccard_score(true, predicted), abs=2e-6)


@pytest.mark.parametrize(
    ("hits", "predicted", "true", "f1", "iou"),
    [
        (0, 0, 0, 0.0, 0.0),
        (0, 0, 10, 0.0, 0.0),
        (0, 10, 0, 0.0, 0.0),
        (10, 10, 10, 0.9999994, 0.9999999),
        (5, 10, 10, 0.49999945, 5 / 15),
    ],
)
def test_f1_and_iou_follow_the_published_epsilons(
    hits: int, predicted: int, true: int, f1: float, iou: float
) -> None:
    pred, target = torch.zeros(1, 1, 1, 40), torch.zeros(1, 1, 1, 40)
    pred[..., :predicted] = 1
    target[..., predicted - hits : predicted - hits + true] = 1
    metrics = image_metrics(pred, target, RAW)
    assert metrics.f1.item() == pytest.approx(f1, abs=1e-8)
    assert metrics.iou.item() == pytest.approx(iou, abs=1e-7)


def test_pixels_at_exactly_one_half_are_negative() -> None:
    pred, target = one_row([0.5, 0.51, 0.0, 1.0], [1, 1, 0, 1])
    assert image_metrics(pred, target, RAW).iou.item() == pytest.approx(2 / 3, abs=1e-6)
    assert image_metrics(pred, torch.full_like(target, 0.5), RAW).iou.item() == 0


def test_published_protocol_finds_positives_in_a_faint_map() -> None:
    pred, target = one_row([0.02, 0.1, 0.02, 0.09], [0, 1, 0, 1])
    assert image_metrics(pred, target, RAW).f1.item() == 0
    assert image_metrics(pred, target, PUBLISHED).f1.item() == pytest.approx(1, abs=1e-5)


def test_published_protocol_only_shifts_a_nearly_constant_map() -> None:
    pred, target = one_row([0.9, 0.909, 0.9, 0.909], [0, 1, 0, 1])
    metrics = image_metrics(pred, target, PUBLISHED)
    assert (metrics.f1.item(), metrics.iou.item()) == (0, 0)
    assert metrics.ap.item() == 1  # the order of the pixels is untouched


def test_published_protocol_empties_a_full_truth() -> None:
    pred, target = one_row([0.2, 0.9, 0.6], [1, 1, 1])
    published, raw = image_metrics(pred, target, PUBLISHED), image_metrics(pred, target, RAW)
    assert (published.ap.item(), published.f1.item(), published.iou.item()) == (0, 0, 0)
    assert raw.ap.item() == 1
    assert raw.iou.item() == pytest.approx(2 / 3, abs=1e-6)


def test_empty_truth_scores_zero() -> None:
    metrics = image_metrics(torch.rand(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), RAW)
    for score in (metrics.ap, metrics.f1, metrics.iou):
        assert score.tolist() == [0, 0]


def test_constant_map_has_the_prevalence_as_average_precision() -> None:
    target = one_row([0.0] * 4, [1, 0, 0, 0])[1]
    assert image_metrics(torch.full_like(target, 0.3), target).ap.item() == 0.25


@pytest.mark.parametrize("protocol", [PUBLISHED, RAW], ids=lambda protocol: protocol.name)
def test_scores_do_not_depend_on_the_rest_of_the_batch(protocol: Protocol) -> None:
    pred, target = random_batch(5)
    pred = pred * torch.tensor([1.0, 0.1, 0.005, 0.7, 0.3]).view(-1, 1, 1, 1)
    together = image_metrics(pred, target, protocol)
    for i in range(5):
        alone = image_metrics(pred[i : i + 1], target[i : i + 1], protocol)
        assert [alone.ap.item(), alone.f1.item(), alone.iou.item()] == [
            together.ap[i].item(),
            together.f1[i].item(),
            together.iou[i].item(),
        ]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_mean_is_the_same_for_any_batch_sizes_and_order(sizes: list[int], random: object) -> None:
    pred, target = random_batch(sum(sizes))
    expected = MetricSums()
    expected.add(image_metrics(pred, target))
    batches = list(zip(pred.split(sizes), target.split(sizes), strict=True))
    random.shuffle(batches)  # type: ignore[attr-defined]
    sums = MetricSums()
    for batch in batches:
        sums.add(image_metrics(*batch))
    assert sums.count == sum(sizes)
    assert sums.mean() == pytest.approx(expected.mean(), abs=1e-12)


def test_mean_names_its_scores() -> None:
    sums = MetricSums()
    sums.add(image_metrics(*one_row([0.9, 0.8, 0.1, 0.7], [1, 0, 0, 1]), RAW))
    assert sums.mean() == pytest.approx({"ap": (1 + 2 / 3) / 2, "f1": 0.8, "iou": 2 / 3}, abs=1e-5)


def test_mean_of_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image was measured"):
        MetricSums().mean()


def test_all_reduce_without_a_process_group_changes_nothing() -> None:
    sums = MetricSums()
    sums.add(image_metrics(*random_batch(3)))
    before = sums.mean()
    sums.all_reduce()
    assert (sums.mean(), sums.count) == (before, 3)


RANK_PROGRAM = """
import sys, torch, torch.distributed as dist
from rsrnet.metrics import ImageMetrics, MetricSums
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
sums = MetricSums()
for score in ([0.1, 0.2, 0.3], [])[rank]:  # one rank may have had no image at all
    values = torch.tensor([score], dtype=torch.float64)
    sums.add(ImageMetrics(values, values * 2, values * 3))
sums.all_reduce()
print(sums.count, sums.mean())
dist.barrier()
dist.destroy_process_group()
"""


def test_all_reduce_gives_every_rank_the_mean_over_all_images(tmp_path: Path, repository: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK_PROGRAM, str(rank), str(tmp_path / "store")],
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert outputs[0] == outputs[1]
    count, mean = outputs[0].split(maxsplit=1)
    assert int(count) == 3
    assert eval(mean) == pytest.approx({"ap": 0.2, "f1": 0.4, "iou": 0.6})


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5])
def test_values_that_are_no_probabilities_are_refused(bad: float) -> None:
    pred, target = random_batch(1)
    pred[0, 0, 3, 3] = bad
    with pytest.raises(ValueError, match="must hold probabilities"):
        image_metrics(pred, target)


def test_rounding_above_one_is_accepted() -> None:
    pred, target = one_row([0.2, 1.0 + 2e-7, 1.0], [0, 1, 0])
    assert image_metrics(pred, target, RAW).ap.item() == 1


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (1, 8, 8), (1, 2, 8, 8)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"both must be \(B, 1, H, W\)"):
        image_metrics(torch.rand(shape), torch.zeros(1, 1, 8, 8))
