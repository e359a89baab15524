"""`rsrnet models ...`, on a store with three trained versions: a poor first champion, a good second, a poor third."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from rsrnet_platform import cli, evaluate, promotion, spec
from rsrnet_platform.lookup import resolve
from rsrnet_platform.models import lock
from rsrnet_platform.store import open_client, resolve_uri

Job = Callable[..., spec.TrainJob]
Command = Callable[..., str]

WIDTH = 100


@pytest.fixture
def models(store: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `rsrnet models ...`; what it printed, after its exit code was checked."""

    def command(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main(["models", *map(str, arguments), "--tracking", str(store)])
        shown = capsys.readouterr()
        assert (left.value.code or 0) == code, shown.err
        if code == 2:
            assert shown.out == ""
            return " ".join(shown.err.split())
        return shown.out

    return command


def listed(models: Command) -> dict[int, dict[str, Any]]:
    (model,) = json.loads(models("list", "--json"))
    return {version["version"]: version for version in model["versions"]}


def test_lists_fit_the_screen_and_mark_the_champion(models: Command, client: MlflowClient) -> None:
    client.create_registered_model(f"{lock.PREFIX}rsrnet.0123")
    client.create_registered_model("another")
    client.create_model_version("another", "/nowhere", await_creation_for=0)
    shown = models("list")
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "2 champion" in shown
    assert "there was no other champion" in shown
    assert "not decided yet" in shown
    assert lock.PREFIX not in shown
    assert [model["name"] for model in json.loads(models("list", "--json"))] == ["another", "rsrnet"]


@pytest.mark.parametrize("model", ["models:/rsrnet@champion", "rsrnet@champion", "rsrnet/2", "2"])
def test_show_takes_every_name_of_a_version(model: str, models: Command) -> None:
    shown = models("show", model)
    assert "models:/rsrnet/2, champion" in shown
    assert "dataset_fingerprint" in shown
    assert "Champions of rsrnet" in shown
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_show_prints_the_job_file_to_run_again(
    models: Command, training: Job, trained: Path, squares_of_six_photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(models("show", "2", "--job"))
    wanted = training(trained, squares_of_six_photographs, "good", fit__epochs="6")
    assert spec.load(path) == wanted
    assert json.loads(models("show", "2", "--job", "--json")) == yaml.safe_load(path.read_text())


def test_the_job_file_is_in_the_version_where_the_run_is_gone(
    models: Command, client: MlflowClient, trained: Path, tmp_path: Path
) -> None:
    wanted = models("show", "1", "--job")
    version = client.get_model_version("rsrnet", "1")
    (lost,) = trained.glob(f"mlartifacts/{version.run_id}/artifacts/job.yaml")
    lost.rename(kept := tmp_path / "kept.yaml")
    try:
        assert models("show", "1", "--job") == wanted
    finally:
        kept.rename(lost)


def test_export_takes_the_number_of_a_version(models: Command, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    found = json.loads(models("export", 2, out, "--format", "torch-export", "--json"))
    assert found["model"] == "models:/rsrnet/2"
    (file,) = found["files"]
    assert file["path"] == str(out / "rsrnet.pt2")
    assert file["difference"] <= 1e-4
    assert (out / "rsrnet.pt2").is_file()


def test_compare_tells_what_differs(models: Command) -> None:
    shown = models("compare", "rsrnet/2", 1)
    assert "fit.epochs" in shown
    assert "fit.lr" not in shown
    assert "storage" not in shown
    assert "Data and code that differ: none." in shown
    found = json.loads(models("compare", 2, 1, "--json"))
    assert found["settings"] == {"fit.epochs": ["6", "1"]}
    (line,) = [line for line in found["scores"] if (line["subset"], line["metric"]) == ("All", "iou")]
    assert line["difference"] == pytest.approx(line["first"] - line["second"])
    assert line["difference"] > 0


def test_versions_of_other_data_are_compared_with_a_warning(models: Command, client: MlflowClient) -> None:
    client.set_model_version_tag("rsrnet", "1", "validation_fingerprint", "f00")
    shown = " ".join(models("compare", 1, 2).split())
    assert "validation_fingerprint" in shown
    assert "validation scores are of different images" in shown


def registered_on_the_page(client: MlflowClient, run_id: str | None) -> list[str]:
    """The versions that the page of a run links to."""
    experiment = client.get_run(run_id or "").info.experiment_id
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    links = [json.loads(model.tags.get("mlflow.modelVersions", "[]")) for model in models]
    return [str(link["version"]) for each in links for link in each]


def test_promotion_rollback_and_deletion(models: Command, client: MlflowClient) -> None:
    refused = models("promote", 3, code=1)
    assert "rsrnet/3 is not champion" in refused
    assert "is not above the spread" in refused
    assert "rsrnet/3 is champion: forced" in models("promote", 3, "--force")
    assert listed(models)[3]["difference"] is None
    assert models("rollback") == "rsrnet: version 2 is champion again, instead of version 3.\n"
    assert "went back from version 3 to version 2" in listed(models)[3]["why"]
    event = json.loads(models("rollback", "rsrnet", "--json"))
    assert (event["version"], event["done"]) == (1, True)
    assert "no earlier champion" in models("rollback", code=2)
    assert "the difference of +" in models("promote", "rsrnet/2")
    history = json.loads(models("show", 2, "--json"))["history"]
    steps = [(event["before"], event["version"], event["how"]) for event in reversed(history)]
    assert steps == [
        (None, 1, "first"),
        (1, 2, "gate"),
        (2, 3, "force"),
        (3, 2, "rollback"),
        (2, 1, "rollback"),
        (1, 2, "gate"),
    ]
    assert all(event["user"] and event["time"] for event in history)
    assert "rsrnet/2 is the champion" in models("delete", "rsrnet@champion", "--yes", code=2)
    run_id = client.get_model_version("rsrnet", "3").run_id
    assert registered_on_the_page(client, run_id) == ["3"]
    assert json.loads(models("delete", 3, "--yes", "--json")) == {
        "deleted": "models:/rsrnet/3",
        "run_id": run_id,
    }
    assert sorted(listed(models)) == [1, 2]
    assert registered_on_the_page(client, run_id) == []
    assert resolve(f"runs:/{run_id}", client.tracking_uri).is_dir()


def test_the_champion_promoted_again_stays_without_a_word_in_the_history(
    models: Command, client: MlflowClient
) -> None:
    before = dict(client.get_registered_model("rsrnet").tags)
    assert "rsrnet/2 is champion" in models("promote", 2, "--data", "/nowhere")
    assert client.get_registered_model("rsrnet").tags == before


def test_an_alias_set_by_hand_is_told_at_once(models: Command, client: MlflowClient) -> None:
    client.set_registered_model_alias("rsrnet", "champion", "3")
    for _ in range(2):  # the second time the command above it has looked, and kept it
        versions = listed(models)
        assert versions[3]["champion"]
        assert versions[3]["why"] == versions[2]["why"] == "version 3 was made champion without rsrnet"
        assert json.loads(models("show", 3, "--json"))["history"][0]["how"] == "elsewhere"
        assert "is champion: version 3 was made champion without" in models("promote", 3)
    assert versions[3]["promoted"] is False  # what the gate had decided


def test_a_refusal_after_a_rollback_is_told(models: Command) -> None:
    models("promote", 3, "--force")
    models("rollback")
    assert "went back from version 3 to version 2" in listed(models)[3]["why"]
    assert "is not above the spread" in models("promote", 3, code=1)
    assert "is not above the spread" in listed(models)[3]["why"]


def test_a_promotion_killed_after_the_alias_is_told_and_completed(
    models: Command, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rsrnet_platform.models.history.finish", killed)  # follows the alias
        with pytest.raises(KeyboardInterrupt):
            promotion.force(client, client.tracking_uri, client.get_model_version("rsrnet", "3"))
    version = listed(models)[3]
    assert (version["champion"], version["promoted"]) == (True, False)
    assert "forced by" in version["why"]
    models("promote", 3)
    version = listed(models)[3]
    assert (version["promoted"], version["champion_before"]) == (True, 2)
    assert "forced by" in client.get_model_version("rsrnet", "3").tags["promotion_reason"]
    history = json.loads(models("show", 3, "--json"))["history"]
    assert [(event["version"], event["done"]) for event in history] == [(3, True), (2, True), (1, True)]


def test_what_other_programs_registered_breaks_nothing(models: Command, client: MlflowClient) -> None:
    def foreign(name: str, tags: dict[str, str]) -> ModelVersion:
        client.create_registered_model(name)
        return client.create_model_version(name, "/nowhere", tags=tags, await_creation_for=0)

    foreign("it's", {})
    foreign("bare", {"val/iou": "much"})
    assert [model["name"] for model in json.loads(models("list", "--json"))] == ["bare", "it's", "rsrnet"]
    assert json.loads(models("show", "it's/1", "--json"))["version"] == 1
    assert "val/iou is not a number" in models("promote", "bare/1", code=1)
    client.set_registered_model_alias("bare", "champion", "1")
    assert models("promote", "bare/1") == "bare/1 is champion: made champion without rsrnet.\n"
    client.create_model_version("bare", "/nowhere", await_creation_for=0)
    assert "Without it only --force promotes it" in models("promote", "bare/2", code=2)
    client.delete_registered_model_alias("bare", "champion")
    assert "runs:/" not in models("delete", "bare/2", "--yes")


def test_delete_asks_first(models: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    models("delete", 1, code=1)
    assert 1 in listed(models)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "runs:/" in models("delete", 1)
    assert 1 not in listed(models)


def test_a_dataset_that_moved_is_named(
    models: Command, squares_of_six_photographs: Path, squares: Path, tmp_path: Path, trained: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(squares_of_six_photographs, moved)
    assert "is not above the spread" in models("promote", 3, "--data", moved, code=1)
    assert "not the images that rsrnet/3 was validated on" in models("promote", 3, "--data", squares, code=2)
    message = models("promote", 3, "--data", "/nowhere", code=2)
    assert "/nowhere" in message
    assert "--data" in message
    assert "--force" in message


@pytest.mark.ray
def test_workers_on_ray_come_to_the_same_decision(ray_cluster: object, models: Command) -> None:
    models("rollback")
    wanted = listed(models)[2]
    models("promote", 2, "--workers", 2)
    found = listed(models)[2]
    assert (found["champion"], found["champion_before"]) == (True, 1)
    assert found["difference"] == pytest.approx(wanted["difference"], abs=1e-6)
    assert found["spread"] == pytest.approx(wanted["spread"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["show", "9"], "no version 9. Its versions: 1, 2, 3"),
        (["show", "other/1"], "no model 'other'"),
        (["show", "rsrnet@best"], "no alias 'best'"),
        (["show", "rsrnet"], "Write NAME/VERSION, NAME@ALIAS or VERSION"),
        (["compare", "1", "9"], "no version 9"),
        (["promote", "9", "--force"], "no version 9"),
        (["rollback", "other"], "no model 'other'"),
        (["rollback", "rsrnet/2"], "no model 'rsrnet/2'"),
        (["export", "rsrnet/9", "out", "--format", "torch-export"], "no version 9"),
        (["delete", "9", "--yes"], "no version 9"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(arguments: list[str], told: str, models: Command) -> None:
    message = models(*arguments, code=2)
    assert told in message
    assert "rsrnet" in message


def test_without_a_store_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["models", "list", "--tracking", str(tmp_path / "none")])
    assert left.value.code == 2
    assert "there is no store yet" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_versions_of_earlier_releases_are_readable(models: Command, client: MlflowClient) -> None:
    tags = {"val/iou": "0.5", "val/m_rsr/iou": "0.4", "promoted": "true", "promotion_reason": "the best"}
    client.create_registered_model("old")
    client.create_model_version("old", "/nowhere", tags=tags, await_creation_for=0)
    client.set_registered_model_alias("old", "champion", "1")
    assert "the best" in models("list")
    shown = models("show", "old/1")
    assert "0.5000" in shown
    assert "0.4000" not in shown
    assert "Champions of" not in shown
    known = json.loads(models("show", "old/1", "--json"))
    assert (known["champion_before"], known["difference"], known["history"]) == (None, None, [])
    assert "job file of old/1 is not known" in " ".join(models("compare", "old/1", "rsrnet/1").split())
    assert "no job file can be had" in models("show", "old/1", "--job", code=2)


def test_an_evaluation_adds_its_test_scores(
    models: Command, store: Path, tmp_path: Path, squares_of_six_photographs: Path
) -> None:
    job = spec.parse(
        {
            "kind": "evaluate",
            "name": "scores",
            "model": "models:/rsrnet@champion",
            "data": {"root": str(squares_of_six_photographs), "size": 32},
            "native": False,
            "pictures": 0,
            "cluster": {"workers": 0},
            "tracking": {"uri": str(store)},
            "storage": str(tmp_path / "runs"),
        }
    )
    assert isinstance(job, spec.EvaluateJob)
    evaluate.run(job, fresh=False)
    version = listed(models)[2]
    summary = json.loads((tmp_path / "runs/scores/attempt-1/evaluation/summary.json").read_text())
    wanted = {part["name"]: part["means"]["m_fnl.published.input.f1"] for part in summary["slices"]}
    assert version["test"]["All"]["f1"] == pytest.approx(wanted["All"])
    assert version["tested"]["test_size"] == "32"
    assert open_client(resolve_uri(job.tracking)).get_run(version["tested"]["test_run"])
    assert f"{version['test']['All']['iou']:.4f}" in models("list")
    assert "test" in models("show", 2)


def test_help_imports_nothing_heavy(repository: Path) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(repository)!r}, {str(repository / 'platform')!r}]\n"
        "import rsrnet_platform.cli\n"
        "assert 'rsrnet_platform.models.commands' in sys.modules\n"
        "sys.exit(bool({'mlflow', 'ray', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
