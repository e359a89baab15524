"""Checking a dataset again, with several processes, or after an interruption: what is remembered of its files."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from PIL import Image

from rsrnet.data.check import check
from rsrnet.data.check.memory import MEMORY
from rsrnet.data.errors import DataError
from tests.rsrnet.data.planted import (
    FILES,
    TRAIN,
    found,
    line,
    mask_of,
    plant,
    real_of,
    run,
    truncate,
    write_list,
)


def test_a_second_check_decodes_only_what_changed(root: Path) -> None:
    truncate(root / line("c2_20_1"))
    first = run(root)
    second = run(root)
    assert (second.checked, second.decoded) == (FILES, 0)
    assert (second.findings, second.counts) == (first.findings, first.counts)
    Image.new("RGB", (9, 9)).save(root / line("c2_20_1"))
    os.utime(root / mask_of("c3_30_1"))
    third = run(root)
    assert third.decoded == 2
    assert found(third) == [("other_size", line("c2_20_1"))]
    assert run(root, fresh=True).decoded == FILES
    assert run(root).decoded == 0


def test_what_may_be_gone_next_time_is_not_remembered(root: Path) -> None:
    path = root / line("c2_20_1")
    path.unlink()
    path.symlink_to(path)
    assert found(run(root)) == [("undecodable_composite", line("c2_20_1"))]
    assert run(root).decoded == 1


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_was_cut_short_is_done_again(root: Path, cut: int) -> None:
    run(root)
    memory = root / MEMORY
    memory.write_bytes(memory.read_bytes()[:-cut])
    assert run(root).decoded == (1 if cut > 1 else 0)
    assert run(root).decoded == 0


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0\n\n", b"[1, 2]\n{}\n", b'{"rsrnet-check": 0}\n["a"]\n']
)
def test_a_memory_of_something_else_is_replaced(root: Path, content: bytes) -> None:
    (root / MEMORY).write_bytes(content)
    assert run(root).decoded == FILES
    assert run(root).decoded == 0
    assert (root / MEMORY).read_text().startswith('{"rsrnet-check": 1}\n[')


def test_where_the_dataset_cannot_be_written_the_cache_remembers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (root / MEMORY).mkdir()  # so that no file of this name can be written, not even by root
    before = sorted(root.rglob("*"))
    assert run(root).decoded == FILES
    assert run(root).decoded == 0
    assert sorted(root.rglob("*")) == before
    assert len(list((tmp_path / "cache").rglob("*.jsonl"))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / line("c2_20_1")))
    assert run(root).decoded == FILES


def test_several_processes_find_what_one_finds(root: Path) -> None:
    more = [f"c{index}_1_1" for index in range(100, 140)]
    plant(root, more)
    write_list(root, "le50_train.txt", (*TRAIN, *more))
    truncate(root / line("c105_1_1"))
    (root / mask_of("c109_1_1")).unlink()
    seen: list[tuple[int, int]] = []
    several = check(root, processes=3, progress=lambda done, total: seen.append((done, total)))
    assert found(several) == [
        ("missing_mask", mask_of("c109_1_1")),
        ("undecodable_composite", line("c105_1_1")),
    ]
    assert several == run(root, fresh=True)
    files = FILES + 3 * 40 - 1
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == ((0, files), (files, files))
    assert len((root / MEMORY).read_text().splitlines()) == 1 + files


@pytest.fixture
def large(root: Path) -> Path:
    """The dataset with enough composites to occupy two processes for a while."""
    more = [f"c{index}_1_1" for index in range(100, 400)]
    plant(root, more[:1])
    for name in more[1:]:
        for path in (line, mask_of, real_of):
            os.link(root / path(more[0]), root / path(name))
    write_list(root, "le50_train.txt", more)
    return root


def test_what_is_reported_as_done_is_on_disk(large: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look_at_memory(done: int, total: int) -> None:
        seen.append((done, len((large / MEMORY).read_text().splitlines()) - 1))

    run(large, progress=look_at_memory)
    assert len(seen) > 10
    assert all(done == remembered for done, remembered in seen)


class Interrupt(BaseException):
    """What no check expects."""


def test_an_interrupted_check_ends_its_processes_and_goes_on_later(large: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise Interrupt

    with pytest.raises(Interrupt):
        check(large, processes=2, progress=interrupt)
    assert multiprocessing.active_children() == []
    remembered = len((large / MEMORY).read_text().splitlines()) - 1
    report = run(large)
    assert 0 < remembered < report.checked
    assert report.decoded == report.checked - remembered
    assert found(report) == []


def test_a_killed_process_is_reported_and_costs_little(large: Path) -> None:
    def kill_one(done: int, total: int) -> None:
        for child in multiprocessing.active_children()[:1]:
            child.kill()

    with pytest.raises(DataError, match=r"was killed, probably for want of memory.*with fewer --processes"):
        check(large, processes=2, progress=kill_one)
    assert run(large).ok
