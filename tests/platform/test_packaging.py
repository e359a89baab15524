"""A registered model as a folder by itself: what is in it, that it loads and serves without the project."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from rsrnet import checkpoint
from rsrnet.data.config import DataConfig
from rsrnet.detection import Detection
from rsrnet.localizer import Localizer
from rsrnet.model.config import RSRNetConfig
from rsrnet.model.network import RSRNet
from rsrnet.recipe import FitConfig
from rsrnet_platform import modelcard, spec
from rsrnet_platform.packaging import save_pyfunc
from tests.clusters import free_ports

NETWORK = RSRNetConfig(depth=18, width=4, iterations=2)
CARD = checkpoint.ModelCard(NETWORK, size=32, epoch=2)
DETECTION = Detection(0.62, 0.91, 0.85, 0.125, 40, 24)
JOB = spec.TrainJob(name="first", data=DataConfig(root="/data/sets/iHarmony4"), fit=FitConfig(epochs=3))
TAGS = {"dataset_fingerprint": "f00d", "mlflow.source.git.commit": "c0ffee", "git_dirty": "true"}
METRICS = {
    "data/training": 1200.0,
    "val/ap": 0.61,
    "val/f1": 0.52,
    "val/iou": 0.43,
    "test/HCOCO/iou": 0.34,
    "train/loss": 1.5,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with drawn weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.save(folder, RSRNet(NETWORK), replace(CARD, detection=DETECTION), {"steps": torch.zeros(3)})
    return folder


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLflow model of the checkpoint."""
    folder = tmp_path_factory.mktemp("packaged") / "model"
    save_pyfunc(folder, source, "r" * 32, "m-1", job_yaml=spec.to_yaml(JOB), tags=TAGS, metrics=METRICS)
    return folder


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Five images of one size."""
    return np.random.default_rng(0).integers(0, 256, (5, 40, 48, 3), dtype=np.uint8)


@pytest.fixture
def masks(source: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the checkpoint itself says of them."""
    return np.stack(Localizer(source, device="cpu")(list(images)))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestTheFolder:
    def test_holds_the_weights_the_code_and_the_documents(self, model: Path, source: Path) -> None:
        files = files_in(model)
        assert files["artifacts/model.safetensors"] == (source / "model.safetensors").read_bytes()
        assert {"artifacts/config.json", "code/rsrnet/localizer.py", "requirements.txt", "job.yaml"} <= {
            *files
        }
        assert {"LICENSE", "LICENSE-WEIGHTS.md", "MODEL_CARD.md", "serving_input_example.json"} <= {*files}
        assert b"Apache License" in files["LICENSE"]
        assert not [name for name in files if "__pycache__" in name or "test" in name]

    def test_holds_nothing_that_could_be_a_pickle(self, model: Path) -> None:
        plain = {"", ".json", ".md", ".py", ".safetensors", ".txt", ".yaml"}
        for name, content in files_in(model).items():
            assert Path(name).suffix in plain
            assert not content.startswith((b"\x80", b"PK"))  # a pickle, or a zip with one
        assert (
            "python_model"
            not in yaml.safe_load((model / "MLmodel").read_text())["flavors"]["python_function"]
        )

    def test_names_no_folder_of_the_machine_it_was_made_on(
        self, model: Path, source: Path, repository: Path
    ) -> None:
        own = [str(source), str(model.parent), f"{Path.home()}/", str(repository), os.getcwd()]
        for name, content in files_in(model).items():
            assert not [path for path in own if path.encode() in content], name

    def test_takes_no_project_of_uv_along(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("uv.lock", "pyproject.toml"):
            (tmp_path / name).write_text("[project]\nname = 'theirs'\n")
        monkeypatch.chdir(tmp_path)
        save_pyfunc(tmp_path / "model", source, "r" * 32, "m-1", job_yaml=None, tags={}, metrics={})
        assert not {"uv.lock", "pyproject.toml", "job.yaml"} & {*files_in(tmp_path / "model")}

    def test_is_read_without_unpickling(
        self, model: Path, images: NDArray[np.uint8], masks: NDArray[np.float32], tmp_path: Path
    ) -> None:
        np.save(tmp_path / "images.npy", images)
        run(tmp_path, sys.executable, UNPICKLE_NOTHING + LOAD_TWICE, model)
        assert_equal(np.load(tmp_path / "pyfunc.npy"), masks)
        assert_equal(np.load(tmp_path / "localizer.npy"), masks)


UNPICKLE_NOTHING = """
import pickle, cloudpickle, torch

def refuse(*arguments, **options):
    raise AssertionError("something was unpickled")

class Refused(pickle.Unpickler):
    __init__ = refuse

import mlflow.pyfunc  # the import itself may use pickle for its own purposes
for module in (pickle, cloudpickle):
    module.load = module.loads = refuse
pickle.Unpickler, pickle._Unpickler, torch.load = Refused, Refused, refuse
"""

LOAD_TWICE = """
import sys
from pathlib import Path
import mlflow.pyfunc
import numpy as np

assert "rsrnet" not in sys.modules
folder = sys.argv[1]
images = np.load("images.npy")
model = mlflow.pyfunc.load_model(folder)
np.save("pyfunc.npy", model.predict(images))
assert model.predict(images[:0]).shape == (0, 40, 48)

ragged = np.empty(2, object)
ragged[:] = [images[0], images[0, :20]]
try:
    model.predict(ragged)
except ValueError as error:
    assert "ask once for each size" in str(error), error
else:
    sys.exit("images of two sizes were taken for one array")

sys.path.insert(0, f"{folder}/code")
import rsrnet
assert rsrnet.__file__ == f"{folder}/code/rsrnet/__init__.py", rsrnet.__file__
localizer = rsrnet.Localizer(Path(folder) / "artifacts")
np.save("localizer.npy", np.stack(localizer(list(images))))
"""


def run(folder: Path, python: str, code: str, *arguments: Path) -> None:
    """Run code in another Python that sees neither this checkout nor the shell's settings."""
    (folder / "home").mkdir()
    done = subprocess.run(
        [python, "-I", "-c", code, *map(str, arguments)],
        cwd=folder,
        env={"HOME": str(folder / "home"), "PATH": os.defpath, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def assert_equal(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert np.abs(found - expected).max() <= 1e-6


class TestTheModelCard:
    def test_tells_the_data_without_its_path_and_the_scores_by_sub_dataset(self, model: Path) -> None:
        text = (model / "MODEL_CARD.md").read_text()
        for line in (
            "| dataset | iHarmony4, list le50_train.txt |",
            "| training images | 1,200 |",
            "| validation images | not recorded |",
            "| fingerprint of the images | f00d |",
            "| val | 0.6100 | 0.5200 | 0.4300 |",
            "| test/HCOCO |  |  | 0.3400 |",
            "| iterations K | 2 |",
            "| input size | 32 x 32 |",
        ):
            assert line in text.splitlines(), line
        assert "commit c0ffee, with changes that were not committed" in text
        assert "/data/sets" not in text
        assert "loss" not in text

    def test_tells_the_limits_that_hold_for_the_model(self, model: Path) -> None:
        text = (model / "MODEL_CARD.md").read_text()
        assert "at least 0.620 for 85% of 40 validation composites and for 12% of 24 photographs" in text
        assert "up to 50 %" in text
        assert "from 1,200 images only" in text
        bare = modelcard.documents(CARD, None, {}, {"val/iou": float("nan")})
        assert {*bare} == {"MODEL_CARD.md", "LICENSE", "LICENSE-WEIGHTS.md"}
        assert "No threshold of a score was chosen" in bare["MODEL_CARD.md"]
        assert "| dataset | not recorded |" in bare["MODEL_CARD.md"]
        assert "None were recorded." in bare["MODEL_CARD.md"]
        assert "up to 50 %" not in bare["MODEL_CARD.md"]

    @pytest.mark.parametrize(
        ("weights", "told"),
        [
            ("imagenet", "torchvision's ResNet18 trained on ImageNet"),
            ("none", "random numbers, so nothing else"),
            ("/home/ray/resnet.pth", "the file `resnet.pth`, whose terms"),
        ],
    )
    def test_tells_what_the_weights_derive_from(self, weights: str, told: str) -> None:
        job = replace(JOB, fit=FitConfig(encoder_weights=weights))
        text = modelcard.documents(CARD, spec.to_yaml(job), {}, {})["LICENSE-WEIGHTS.md"]
        assert told in text
        assert "trained on: iHarmony4," in text
        assert "/home" not in text

    def test_keeps_the_job_as_it_is(self, model: Path) -> None:
        assert (model / "job.yaml").read_text() == spec.to_yaml(JOB)

    def test_its_code_runs(
        self, model: Path, images: NDArray[np.uint8], masks: NDArray[np.float32], tmp_path: Path
    ) -> None:
        from PIL import Image

        text = (
            (model / "MODEL_CARD.md")
            .read_text()
            .replace("MODEL/", f"{model}/")
            .replace('"MODEL"', f'"{model}"')
        )
        blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
        Image.fromarray(images[0]).save(tmp_path / "composite.png")
        np.save(tmp_path / "images.npy", images)
        code = 'import numpy as np\nimages = np.load("images.npy")\n' + "\n".join(blocks)
        code = (
            code.replace("composite.jpg", "composite.png")
            + 'np.save("masks.npy", np.stack([masks[0], mask]))\n'
        )
        run(tmp_path, sys.executable, code)
        assert_equal(np.load(tmp_path / "masks.npy"), np.stack([masks[0], masks[0]]))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of `mlflow models serve`, which the card tells to use."""
    folder = tmp_path_factory.mktemp("server")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # As in an activated environment: MLflow looks for uvicorn on the path.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        with suppress(ProcessLookupError):  # it ended by itself: the assertion above says why
            os.killpg(process.pid, signal.SIGTERM)  # the server is a child of the command
        process.wait(30)


def answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def ask(port: int, content: str) -> tuple[int, str]:
    """Status and text of the answer to a request for a prediction."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/invocations", content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class TestServing:
    def test_images_of_any_size_get_their_masks(
        self, server: int, source: Path, images: NDArray[np.uint8], masks: NDArray[np.float32]
    ) -> None:
        status, text = ask(server, json.dumps({"inputs": images.tolist()}))
        assert status == 200, text
        assert_equal(np.array(json.loads(text)["predictions"], np.float32), masks)
        wide = images[:2, :30].transpose(0, 2, 1, 3)
        status, text = ask(server, json.dumps({"inputs": wide.tolist()}))
        assert status == 200, text
        expected = np.stack(Localizer(source, device="cpu")(list(wide)))
        assert_equal(np.array(json.loads(text)["predictions"], np.float32), expected)

    def test_the_example_in_the_folder_is_a_request(self, server: int, model: Path) -> None:
        status, text = ask(server, (model / "serving_input_example.json").read_text())
        assert status == 200, text
        assert np.array(json.loads(text)["predictions"]).shape == (1, 32, 32)

    def test_fractions_are_cut_off_as_the_card_says(self, server: int) -> None:
        answers = [ask(server, json.dumps({"inputs": [[[[value] * 3] * 8] * 8]})) for value in (0.9, 0)]
        assert answers[0] == answers[1]
        assert answers[0][0] == 200

    @pytest.mark.parametrize(
        ("inputs", "told"),
        [
            ([[[[1, 2]]]], "(1, 1, 1, 2) does not match expected shape (-1, -1, -1, 3)"),
            ([[[1, 2, 3]]], "(1, 1, 3) does not match expected shape (-1, -1, -1, 3)"),
            ([[[[1, 2, 256]]]], "256 out of bounds for uint8"),
            ([[[[1, 2, "red"]]]], "invalid literal for int"),
            ([[[[1, 2, 3]]], [[[1, 2, 3], [4, 5, 6]]]], "inhomogeneous shape"),
        ],
        ids=["channels", "dimensions", "range", "text", "sizes"],
    )
    def test_a_wrong_request_is_told_what_is_wrong(self, server: int, inputs: object, told: str) -> None:
        status, text = ask(server, json.dumps({"inputs": inputs}))
        assert (status, told in text) == (400, True), text


@pytest.mark.slow
class TestAFreshEnvironment:
    def test_needs_the_requirements_and_nothing_else(
        self,
        model: Path,
        images: NDArray[np.uint8],
        masks: NDArray[np.float32],
        repository: Path,
        tmp_path: Path,
    ) -> None:
        uv = shutil.which("uv") or shutil.which("uv", path=str(repository / ".tools/bin"))
        if uv is None:
            pytest.skip("there is no uv to make an environment with: make setup")
        requirements = (model / "requirements.txt").read_text().split()
        assert all(
            line.count("==") == 1 and "+" not in line for line in requirements
        )  # a local build has a +
        environment = {**os.environ, "UV_SYSTEM_CERTS": "1", "VIRTUAL_ENV": ""}
        made = [uv, "venv", "--python", sys.executable, str(tmp_path / "venv")]
        subprocess.run(made, env=environment, capture_output=True, check=True, timeout=60)
        python = str(tmp_path / "venv/bin/python")
        wanted = [uv, "pip", "install", "--python", python, "--requirements", str(model / "requirements.txt")]
        done = subprocess.run(
            wanted, env=environment, capture_output=True, text=True, timeout=540, check=False
        )
        if "Failed to fetch" in done.stderr or "error sending request" in done.stderr:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
        moved = tmp_path / "model"
        shutil.copytree(model, moved)
        np.save(tmp_path / "images.npy", images)
        absent = "import importlib.util\nassert importlib.util.find_spec('rsrnet') is None\n"
        run(tmp_path, python, absent + UNPICKLE_NOTHING + LOAD_TWICE, moved)
        assert_equal(np.load(tmp_path / "pyfunc.npy"), masks)
        assert_equal(np.load(tmp_path / "localizer.npy"), masks)
