"""Finding bad composites before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rsrnet.data.errors import BadDataError
from rsrnet.data.inspection import DataReport, inspect, usable
from rsrnet.data.naming import Composite

AddMany = Callable[[int], list[Composite]]


@pytest.fixture
def composites(tmp_path: Path, add_many: AddMany) -> list[Composite]:
    """Six composites: the second truncated, the third without mask, the fifth with a mask of another size."""
    written = add_many(6)
    truncated = tmp_path / written[1].path
    truncated.write_bytes(truncated.read_bytes()[:-200])
    (tmp_path / written[2].mask_path).unlink()
    Image.new("L", (8, 8)).save(tmp_path / written[4].mask_path)
    return written


@pytest.fixture
def report(tmp_path: Path, composites: list[Composite]) -> DataReport:
    return inspect(tmp_path, composites)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_bad_composites_are_reported_in_order_with_the_reason(
    tmp_path: Path, composites: list[Composite], threads: int
) -> None:
    report = inspect(tmp_path, composites, threads)
    assert report.checked == 6
    assert [bad.composite for bad in report.bad] == [composites[1], composites[2], composites[4]]
    truncated, no_mask, other_size = (bad.reason for bad in report.bad)
    assert "c1_7_2.jpg: cannot be decoded (" in truncated
    assert no_mask == "HCOCO/masks/c2_7.png: there is no such file"
    assert "c4_7_5.jpg: the image has 40 x 30, its mask 8 x 8 pixels" in other_size


def test_progress_counts_every_composite(tmp_path: Path, composites: list[Composite]) -> None:
    seen: list[tuple[int, int]] = []
    inspect(tmp_path, composites, 2, lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]


def test_sound_dataset_has_nothing_to_report(tmp_path: Path, add_many: AddMany) -> None:
    sound = add_many(3)
    report = inspect(tmp_path, sound)
    assert report == DataReport(3, ())
    assert usable(sound, report, "stop") == sound


def test_stop_names_the_bad_ones_and_the_remedy(composites: list[Composite], report: DataReport) -> None:
    with pytest.raises(BadDataError) as refused:
        usable(composites, report, "stop")
    message = str(refused.value)
    assert message.startswith("3 of 6 composites cannot be used:")
    assert all(bad.reason in message for bad in report.bad)
    assert "set on_bad_image to skip" in message


def test_skip_leaves_the_bad_ones_out(composites: list[Composite], report: DataReport) -> None:
    assert usable(composites, report, "skip") == [composites[0], composites[3], composites[5]]


def test_skipping_everything_is_refused(tmp_path: Path, add_many: AddMany) -> None:
    composites = add_many(2)
    with pytest.raises(BadDataError, match="Nothing is left"):
        usable(composites, inspect(tmp_path / "elsewhere", composites), "skip")


def test_long_report_lists_twenty_and_counts_the_rest(tmp_path: Path) -> None:
    missing = [Composite.parse(f"c{i}_1_1.jpg") for i in range(25)]
    message = str(inspect(tmp_path, missing))
    assert message.count("there is no such file") == 20
    assert message.endswith("... and 5 more")
