"""Names that come from files and servers lead nowhere but into the folder they belong to."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rsrnet.data.errors import DataError
from rsrnet.data.folder import Folder
from rsrnet.data.naming import Composite
from rsrnet.data.pack.layout import MANIFEST
from rsrnet.data.pack.write import pack
from rsrnet.data.source import open_source
from rsrnet_platform import predict, runs, spec
from rsrnet_platform.errors import JobError, UserError
from rsrnet_platform.lookup import RegistryError, resolve
from rsrnet_platform.prediction.listing import result_names

EVIL = st.sampled_from(
    [
        "..",
        ".",
        "",
        "/",
        "//",
        "\\",
        "..\\",
        "\0",
        "~",
        "a",
        "a.jpg",
        "C:",
        "\n",
        "é",
        "file:",
        "s3:",
        "%2e%2e",
    ]
)
NAMES = st.lists(EVIL | st.text(max_size=5), min_size=1, max_size=8).map("/".join) | st.text(max_size=30)
"""Paths made of what leads elsewhere, and of anything."""


def is_inside(folder: Path, name: str) -> bool:
    """Whether a file of this name lies in the folder, and the system can make it."""
    path = os.path.normpath(os.path.join(folder, name))
    return path.startswith(f"{folder}{os.sep}") and "\0" not in name


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
@example(["../../etc/passwd", "/etc/passwd", "..", "a/../../b.png", "s3://x/../../../y.png", "a\0b.png"])
def test_results_of_predictions_stay_in_the_output(paths: list[str]) -> None:
    names = result_names(paths)
    folder = Path("/output/masks")
    assert all(is_inside(folder, f"{name}.png") for name in names), names
    assert len(set(names)) == len(names)


def _parsed(line: str) -> Composite | None:
    try:
        return Composite.parse(line)
    except DataError:
        return None


SCHEME = st.builds(
    lambda folder, middle, rest: f"{folder}/{middle}/c{rest}_1_1.jpg",
    EVIL | st.sampled_from(["HCOCO", "hcoco"]),
    EVIL | st.just("composite_images"),
    NAMES,
)
"""What looks like the name of a composite."""


@given(SCHEME | NAMES)
@example("HCOCO/composite_images/../../../c1_1_1.jpg")
@example("../../composite_images/c1_1_1.jpg")
@example("/etc/HCOCO/composite_images/c1_1_1.jpg")
@example("c../../../x_1_1.jpg")
@example("c\0_1_1.jpg")
def test_lines_of_lists_stay_in_the_dataset(line: str) -> None:
    composite = _parsed(line)
    if composite is not None:
        paths = (composite.path, composite.mask_path, composite.real_path)
        assert all(is_inside(Path("/dataset"), path) for path in paths)
        assert composite.path.split("/")[0].lower() == composite.subset.lower()


@pytest.mark.parametrize(
    "line", ["../composite_images/strain-000_1_1.jpg", "Sample/composite_images/s\0_1_1.jpg"]
)
def test_list_that_leads_elsewhere_is_refused_with_its_line(tmp_path: Path, squares: Path, line: str) -> None:
    (tmp_path / "Sample").mkdir()
    (tmp_path / "evil.txt").write_text(f"Sample/composite_images/strain-000_1_1.jpg\n{line}\n")
    with pytest.raises(DataError, match=r"evil\.txt, line 2"):
        Folder(tmp_path).read_list("evil.txt", ())


@pytest.fixture(scope="module")
def packed(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    pack(squares, str(folder), lists=["le50_test.txt"], processes=1)
    return folder


@given(NAMES | st.builds(lambda name: f"{name}/00000.parquet", NAMES))
@example("../outside/00000.parquet")
@example("/etc/passwd")
@example("..\\00000.parquet")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_shards_of_a_pack_are_files_of_the_pack(packed: Path, name: str) -> None:
    manifest = packed / MANIFEST
    before = manifest.read_text()
    values = json.loads(before)
    (shard,) = values["lists"]["le50_test.txt"]
    shard["file"] = name
    try:
        manifest.write_text(json.dumps(values))
        with pytest.raises(DataError, match=r"pack\.json: damaged .*pack the dataset again|is missing"):
            open_source(packed)
    finally:
        manifest.write_text(before)


def test_shard_outside_of_a_pack_is_refused_although_it_is_there(packed: Path) -> None:
    outside = packed.parent / "outside"
    outside.mkdir()
    (outside / "00000.parquet").write_bytes((packed / "le50_test/00000.parquet").read_bytes())
    manifest = packed / MANIFEST
    before = manifest.read_text()
    try:
        manifest.write_text(before.replace("le50_test/00000.parquet", "../outside/00000.parquet"))
        with pytest.raises(DataError, match=r"'\.\./outside/00000\.parquet' is not the name of a shard"):
            open_source(packed)
    finally:
        manifest.write_text(before)


@given(NAMES)
@example("../x")
@example("..")
@example("a/b")
@example("a\\b")
@example("a\0")
@example("-rf")
@example("a\n")
def test_name_of_a_job_is_one_folder(name: str) -> None:
    try:
        job = spec.parse({"kind": "train", "name": name, "data": {"root": "/d"}})
    except JobError:
        return
    assert isinstance(job, spec.TrainJob)
    assert os.path.basename(f"/storage/{job.name}") == job.name
    assert is_inside(Path("/storage"), job.name)


@given(st.one_of(NAMES, st.integers(max_value=-1), st.floats(), st.none(), st.booleans(), st.just(["x"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_state_of_a_run_names_no_other_folder(tmp_path: Path, attempt: object) -> None:
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / runs.STATE).write_text(json.dumps({"attempt": attempt, "data": None}))
    with pytest.raises(UserError, match=r"state\.json: damaged"), runs.hold(str(tmp_path), "run"):
        pass


@pytest.mark.parametrize(
    "uri", ["models:/../x@champion", "models:/x/../../1", "runs:/../../etc", "models:/a\0@b"]
)
def test_uri_of_a_model_leads_to_the_registry_only(store: Path, uri: str) -> None:
    with pytest.raises(RegistryError):
        resolve(uri, str(store))


def test_names_in_a_table_of_images_stay_in_the_output(trained: Path, tmp_path: Path, squares: Path) -> None:
    """A table from anywhere: its rows are predicted, and nothing is written beside the output."""
    image = next((squares / "Sample/composite_images").iterdir()).read_bytes()
    names = [
        "../../up.jpg",
        "/etc/absolute.jpg",
        "..",
        "back\\..\\slash.jpg",
        "null\0.jpg",
        "line\n.jpg",
        "~/x.jpg",
    ]
    pq.write_table(pa.table({"path": names, "image": [image] * len(names)}), tmp_path / "images.parquet")
    output = tmp_path / "inside" / "output"
    before = {path for path in tmp_path.rglob("*") if path != output}
    job = spec.parse({
        "kind": "predict",
        "name": "names",
        "model": str(next((trained / "runs").rglob("model.safetensors")).parent),
        "input": str(tmp_path / "images.parquet"),
        "output": str(output),
        "cluster": {"workers": 0},
        "tracking": {"uri": str(trained / "mlflow.db")},
    })  # fmt: skip
    assert isinstance(job, spec.PredictJob)
    predict.run(job, fresh=False)
    table = pq.read_table(output / "predictions.parquet").to_pydict()
    assert sorted(table["path"]) == sorted(names)
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path not in before and output.parent not in (path, *path.parents)
    ]
    assert all(path.resolve().is_relative_to(output.resolve()) for path in output.rglob("*"))
    assert len(list((output / "masks").rglob("*.png"))) == len(names)


class _EvilServer(BaseHTTPRequestHandler):
    """Hands out artifacts as an MLflow server does, under names that lead elsewhere."""

    name: ClassVar[str]

    def do_GET(self) -> None:
        listing = "/artifacts?" in self.path or self.path.rstrip("/").endswith("artifacts")
        body = (
            json.dumps({"files": [{"path": self.name, "is_dir": False, "file_size": 4}]}).encode()
            if listing
            else b"evil"
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if listing else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def evil_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _EvilServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "../../../../evil",
        "/tmp/evil-of-rsrnet",
        "a/../../../evil",
        "%2e%2e/%2e%2e/evil",
        "..\\evil",  # a name like any other on this system
        "evil",
    ],
)
def test_artifacts_of_a_server_stay_in_the_cache(
    evil_server: str, tmp_home: Path, tmp_path: Path, name: str
) -> None:
    from rsrnet_platform.packaging import fetch
    from rsrnet_platform.store import explained

    _EvilServer.name = name
    with suppress(UserError), explained(evil_server):
        fetch(f"{evil_server}/api/2.0/mlflow-artifacts/artifacts/model", evil_server)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == (name in ("evil", "..\\evil"))
    cache = tmp_home / ".cache" / "rsrnet" / "models"
    assert not [path for path in files if cache not in path.parents]
    assert not Path("/tmp/evil-of-rsrnet").exists()
