"""Fixtures and settings that every test may count on.

One thread per process, seeded property tests in CI, no variable of the developer's shell, no file outside the
test's own folder, and one local Ray cluster for the whole session, started when the first test asks for it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from tests.clusters import free_ports
from tests.hosts import Host, hosts, why_not

REPOSITORY = Path(__file__).resolve().parents[1]

# Ray's sessions of this test session: away from any other cluster of the machine, and short, because Ray puts
# sockets into it and the path of a socket may not exceed 107 bytes.
RAY_FOLDER = Path(tempfile.gettempdir()) / f"rsrnet-{os.getpid()}"

# Set before anything imports Ray or MLflow, and inherited by every process a test starts.
os.environ.update(
    OMP_NUM_THREADS="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    # As where the environment is activated: jobs that are sent to a cluster call `python`.
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    RAY_AUTH_MODE="disabled",
    RAY_TMPDIR=str(RAY_FOLDER),
    RAY_USAGE_STATS_ENABLED="0",
    # Ray Train looks at its workers, and takes their reports, once per interval: 2 s is the default.
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
)

torch.set_num_threads(1)

hypothesis.settings.register_profile("rsrnet", deadline=None, max_examples=50, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("rsrnet")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the clusters and servers that the developer's shell names; forget the ones that a test named."""
    for name in ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield
    if "mlflow" in sys.modules:
        import mlflow

        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder inside ``tmp_path``: ``~/rsrnet`` and every cache below ``~`` land in it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


@dataclass(frozen=True)
class RayCluster:
    """The session's Ray cluster: one node that says it has 4 CPUs and no GPU.

    Two training workers and a few actors so fit at once, whatever the machine has.
    """

    address: str
    """``host:port`` of the cluster, for ``ray.init(address=...)`` and ``RAY_ADDRESS``."""
    dashboard_url: str
    """``http://host:port`` of the job API, for ``ray job submit --address ...``."""


@pytest.fixture(scope="session")
def _ray_cluster_of_the_session() -> Iterator[RayCluster]:
    import ray
    from ray.cluster_utils import Cluster

    address_of_newest_cluster = RAY_FOLDER / "ray" / "ray_current_cluster"
    address_of_newest_cluster.parent.mkdir(parents=True, exist_ok=True)
    # Not `ray.init()`, whose cluster would end when code under test calls `ray.shutdown()`.
    cluster = Cluster()
    dashboard, agent = free_ports(2)
    try:
        node = cluster.add_node(
            num_cpus=4,
            num_gpus=0,
            object_store_memory=512 * 1024**2,
            include_dashboard=True,
            dashboard_port=dashboard,  # the usual ones may be another cluster's
            dashboard_agent_listen_port=agent,  # without it the job API takes no jobs
        )
        # Otherwise a bare `ray.init()` joins this cluster or starts its own, by the order of the tests.
        address_of_newest_cluster.unlink()
        yield RayCluster(cluster.address, f"http://{node.webui_url}")
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(RAY_FOLDER, ignore_errors=True)


@pytest.fixture
def ray_cluster(_ray_cluster_of_the_session: RayCluster) -> RayCluster:
    """The session's Ray cluster, with this process connected to it."""
    import ray

    if not ray.is_initialized():
        ray.init(address=_ray_cluster_of_the_session.address, log_to_driver=False)
    return _ray_cluster_of_the_session


@pytest.fixture(scope="module")
def make_hosts() -> Iterator[Callable[..., list[Host]]]:
    """Make hosts of the given names on this machine; see `tests.hosts.hosts`. They end with the tests of the file."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda *names: stack.enter_context(hosts(*names))


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset in the published layout: grey noise with one tinted square; 12 train, 5 val, 5 test."""
    root = tmp_path_factory.mktemp("squares")
    make_squares(root, lambda split, index: f"s{split}-{index:03d}")
    return root


@pytest.fixture(scope="session")
def squares_of_six_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with two training composites of each of six photographs: folds can be cut from it."""
    root = tmp_path_factory.mktemp("squares")
    make_squares(root, lambda split, index: f"s{split}{'abcdef'[index // 2]}-{index:03d}")
    return root


def make_squares(root: Path, stem_of: Callable[[str, int], str]) -> None:
    """Make the dataset; ``stem_of`` names the image of a split's index in the published scheme."""
    for folder in ("composite_images", "masks", "real_images"):
        (root / "Sample" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5), ("test", 5)):
        lines = []
        for index in range(count):
            real = rng.integers(90, 140, (40, 48, 3), dtype=np.uint8)
            mask = np.zeros((40, 48), np.uint8)
            top, left = rng.integers(2, 18, 2)
            mask[top : top + 18, left : left + 18] = 255
            image = real.copy()
            image[..., 0] += (mask // 3).astype(np.uint8)
            stem = stem_of(split, index)
            Image.fromarray(real).save(root / "Sample/real_images" / f"{stem}.jpg", quality=95)
            Image.fromarray(mask).save(root / "Sample/masks" / f"{stem}_1.png")
            Image.fromarray(image).save(root / "Sample/composite_images" / f"{stem}_1_1.jpg", quality=95)
            lines.append(f"Sample/composite_images/{stem}_1_1.jpg\n")
        (root / f"le50_{split}.txt").write_text("".join(lines))
