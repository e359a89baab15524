"""What the nodes of a cluster see of a storage."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from rsrnet_platform.errors import UserError
from rsrnet_platform.reach import ask_nodes, require_writable, unreachable
from tests.conftest import RayCluster

pytestmark = pytest.mark.ray


@pytest.fixture
def own_disk(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[Path]:
    """A folder in whose place a second node of the cluster has a disk of its own."""
    import ray

    folder = tmp_path / "disk"
    folder.mkdir()
    start = (
        f"mount -t tmpfs none {folder} && exec {Path(sys.executable).parent}/ray start --block --num-cpus=1"
    )
    command = ["unshare", "--mount", "sh", "-c", f"{start} --address={ray_cluster.address}"]
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("only root may give a process another view of the disks")
    node = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: alive(ray) == 2)
        yield folder
    finally:
        node.terminate()
        node.wait(60)
        wait_until(lambda: alive(ray) == 1)


def alive(ray: Any) -> int:
    return sum(node["Alive"] for node in ray.nodes())


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_every_node_reads_and_writes_a_shared_folder_and_nothing_stays(
    ray_cluster: object, tmp_path: Path
) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage/mine").write_text("kept")
    assert unreachable(str(tmp_path / "storage")) == {}
    assert [path.name for path in (tmp_path / "storage").iterdir()] == ["mine"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_folders_made_for_the_probe_are_gone_again(ray_cluster: object, tmp_path: Path, scheme: str) -> None:
    assert unreachable(f"{scheme}{tmp_path / 'a/b/c'}") == {}
    assert list(tmp_path.iterdir()) == []


def test_a_node_with_a_disk_of_its_own_is_named(own_disk: Path) -> None:
    import ray

    (wrong,) = unreachable(str(own_disk)).items()
    other = {node["NodeID"][:8] for node in ray.nodes() if node["Alive"]} - {
        ray.get_runtime_context().get_node_id()[:8]
    }
    assert wrong[0].endswith(f"({other.pop()})")
    assert wrong[1] == "does not see what this machine writes there"
    assert list(own_disk.iterdir()) == []
    assert unreachable(str(own_disk.parent / "shared")) == {}
    assert list(own_disk.parent.iterdir()) == [own_disk]


def test_a_store_that_each_process_has_for_itself_is_not_shared(ray_cluster: object) -> None:
    (why,) = unreachable("memory://bucket/runs").values()
    assert why == "does not see what this machine writes there"


def test_a_folder_that_cannot_be_made_is_told_at_once(ray_cluster: object, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=rf"{tmp_path}/file/runs: cannot be written from here .Not a directory"
    ):
        unreachable(str(tmp_path / "file/runs"))


def test_a_storage_that_hangs_is_given_up_and_left_clean_when_it_comes_back(tmp_path: Path) -> None:
    back, written = threading.Event(), threading.Event()

    class Hanging(LocalFileSystem):
        """The disk, which does nothing until it is back, as that of a file server that is away."""

        protocol = "hanging"
        cachable = False

        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            back.wait(60)
            super().makedirs(path, exist_ok=exist_ok)

        def rm(self, *arguments: Any, **options: Any) -> None:
            super().rm(*arguments, **options)
            written.set()

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("hanging://"))

    fsspec.register_implementation("hanging", Hanging, clobber=True)
    begin = time.monotonic()
    with pytest.raises(
        UserError, match=rf"hanging://{tmp_path}/runs: does not answer within 0 s.*server is away"
    ):
        require_writable(f"hanging://{tmp_path}/runs", seconds=0.3)
    assert time.monotonic() - begin < 30
    back.set()
    assert written.wait(60), "what is written late is deleted again"
    wait_until(lambda: not [path for path in tmp_path.rglob("*") if path.is_file()])


def test_a_silent_node_is_given_up(ray_cluster: object) -> None:
    begin = time.monotonic()
    (answer,) = ask_nodes(lambda seconds: time.sleep(seconds), 600, seconds=1).values()
    assert answer.trouble == "did not answer within 1 s"
    assert time.monotonic() - begin < 60


def test_an_error_on_a_node_is_an_answer(ray_cluster: object) -> None:
    (answer,) = ask_nodes(lambda folder: os.listdir(folder), "/nowhere").values()
    assert (answer.value, answer.trouble) == (
        None,
        "failed: FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'",
    )
