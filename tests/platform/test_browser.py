"""What the pages of the MLflow UI show of a training, asked for over HTTP as a browser does."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from rsrnet_platform import spec, train


@pytest.fixture(scope="module")
def pages(mlflow_server, squares, tmp_path_factory) -> Pages:
    """The server, after a training of three epochs that registered its model."""
    asked = {
        "kind": "train",
        "name": "squares",
        "description": "Tinted squares on grey noise",
        "data": {"root": str(squares), "val": "le50_val.txt", "size": 32, "loader_processes": 0},
        "model": {"depth": 18, "width": 4, "iterations": 2, "scales": [0, 1]},
        "fit": {"epochs": 3, "batch_size": 4, "lr": 2e-3, "milestones": [2], "encoder_weights": "none"},
        "cluster": {"workers": 0},
        "storage": str(tmp_path_factory.mktemp("runs")),
        "tracking": {"uri": mlflow_server, "experiment": "browser", "model": "seen-in-a-browser"},
    }
    job = spec.parse(asked)
    assert isinstance(job, spec.TrainJob)
    train.run(job, fresh=False)
    return Pages(mlflow_server)


class Pages:
    """What a page asks its server for."""

    def __init__(self, server: str) -> None:
        self.server = server

    def get(self, page: str, /, **query: Any) -> bytes:
        with urlopen(f"{self.server}/{page}?{urlencode(query)}", timeout=30) as answer:
            return answer.read()

    def ask(self, call: str, /, **query: Any) -> Any:
        return json.loads(self.get(f"ajax-api/2.0/mlflow/{call}", **query))

    def search(self, what: str, /, **wanted: Any) -> Any:
        body, head = json.dumps(wanted).encode(), {"Content-Type": "application/json"}
        url = f"{self.server}/ajax-api/2.0/mlflow/{what}/search"
        with urlopen(Request(url, body, head), timeout=30) as answer:
            return json.load(answer)[what]

    def experiment(self) -> Any:
        return self.ask("experiments/get-by-name", experiment_name="browser")["experiment"]

    def run(self) -> Any:
        (run,) = self.search("runs", experiment_ids=[self.experiment()["experiment_id"]])
        return run

    def artifacts(self, path: str = "") -> list[str]:
        found = self.ask("artifacts/list", run_id=self.run()["info"]["run_id"], path=path)
        return [each["path"] for each in found["files"]]


def as_dict(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in tags}


def test_the_first_page_is_there(pages) -> None:
    assert b"<title>MLflow</title>" in pages.get("")


def test_the_experiment_says_what_it_is(pages) -> None:
    tags = as_dict(pages.experiment()["tags"])
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert "RSRNet" in tags["mlflow.note.content"]


def test_the_run_has_its_name_description_dataset_and_scores_first(pages, squares) -> None:
    run = pages.run()
    assert (run["info"]["run_name"], run["info"]["status"]) == ("squares", "FINISHED")
    assert as_dict(run["data"]["tags"])["mlflow.note.content"] == "Tinted squares on grey noise"
    (given,) = run["inputs"]["dataset_inputs"]
    assert given["dataset"]["name"] == squares.name
    assert json.loads(given["dataset"]["profile"]) == {"training": 12, "validation": 5, "skipped": 0}
    keys = [metric["key"] for metric in run["data"]["metrics"]]
    assert keys[:3] == ["val/ap", "val/f1", "val/iou"]
    assert "train/loss" in keys


def test_pictures_lie_one_folder_deep_in_the_order_of_time_and_open(pages) -> None:
    assert "job.yaml" in pages.artifacts()
    names = pages.artifacts("pictures")
    assert names == [
        f"pictures/epoch_{epoch:03d}_{kind}.png" for epoch in (1, 2, 3) for kind in ("iterations", "masks")
    ]
    for name in names:
        content = pages.get("get-artifact", run_id=pages.run()["info"]["run_id"], path=name)
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            assert picture.width > picture.height / 2 > 50


def test_the_registered_model_has_a_description_an_alias_and_a_version(pages) -> None:
    model = pages.ask("registered-models/get", name="seen-in-a-browser")["registered_model"]
    assert "RSRNet" in model["description"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    version = pages.ask("model-versions/get", name="seen-in-a-browser", version="1")["model_version"]
    assert version["run_id"] == pages.run()["info"]["run_id"]
    for part in ("val/iou", 'mlflow.pyfunc.load_model("models:/seen-in-a-browser/1")'):
        assert part in version["description"]
    assert "promotion_reason" in as_dict(version["tags"])
