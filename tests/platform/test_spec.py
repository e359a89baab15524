from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rsrnet.data.config import DataConfig
from rsrnet.loss_config import LossConfig
from rsrnet.model.config import RSRNetConfig
from rsrnet.recipe import FitConfig
from rsrnet_platform import spec, strict_yaml
from rsrnet_platform.checking import leaves
from rsrnet_platform.cluster import TrainClusterConfig
from rsrnet_platform.errors import JobError
from rsrnet_platform.store import TrackingConfig

ROOT = Path(__file__).parents[2]
MINIMAL: dict[Any, Any] = {"kind": "train", "name": "a-run", "data": {"root": "/data"}}


def load_train(path: Path, overrides: Sequence[str] = ()) -> spec.TrainJob:
    job = spec.load(path, overrides)
    assert isinstance(job, spec.TrainJob)
    return job


def parse_train(given_: dict[Any, Any]) -> spec.TrainJob:
    job = spec.parse(given_)
    assert isinstance(job, spec.TrainJob)
    return job


def job_file(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def problems_of(given_: dict[Any, Any]) -> list[str]:
    with pytest.raises(JobError) as caught:
        spec.parse(given_)
    return [str(problem) for problem in caught.value.problems]


def test_defaults_are_those_of_the_parts() -> None:
    job = parse_train(MINIMAL)
    assert (job.model, job.loss, job.fit) == (RSRNetConfig(), LossConfig(), FitConfig())
    assert (job.data, job.cluster, job.tracking) == (
        DataConfig("/data"),
        TrainClusterConfig(),
        TrackingConfig(),
    )


def test_empty_section_is_all_defaults(tmp_path: Path) -> None:
    path = job_file(tmp_path, "kind: train\nname: x\ndata: {root: /data}\nmodel:\n  # width: 16\n")
    assert load_train(path).model == RSRNetConfig()


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E-4", 1e-4), ("3", 3.0), (".5", 0.5), ("2.5e-3", 0.0025)]
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, value: float) -> None:
    path = job_file(tmp_path, f"kind: train\nname: x\ndata: {{root: /d}}\nfit: {{lr: {text}}}\n")
    assert load_train(path).fit.lr == value


@pytest.mark.parametrize("text", ["no", "on", "1:30", "010", "2026-01-01", "1_000", "y"])
def test_yaml_1_1_surprises_are_text(text: str) -> None:
    assert strict_yaml.read(text) == text


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("loss", "lambda", 0, "above 0, at most 1"),
        ("loss", "lambda", 1.01, "above 0, at most 1"),
        ("model", "iterations", 0, "at least 1"),
        ("model", "iterations", 2.0, "a whole number"),
        ("model", "iterations", True, "a whole number"),
        ("model", "iterations", "3", "a whole number"),
        ("model", "scales", [0, -1], "at least 0"),
        ("model", "scales", 3, "a list"),
        ("model", "reasoning", "lstm", "gru, conv, similarity or none"),
        ("fit", "lr", "fast", "a number"),
        ("fit", "lr", False, "a number"),
        ("fit", "lr", float("nan"), "a finite number"),
        ("fit", "lr", None, "a number"),
        ("data", "root", 3, "text"),
        ("cluster", "workers", -1, "at least 0"),
        ("cluster", "address", "http://127.0.0.1:8265", "rsrnet submit"),
        ("tracking", "experiment", [], "text"),
    ],
)
def test_impossible_value_is_named_with_what_is_allowed(
    section: str, key: str, value: Any, allowed: str
) -> None:
    given_ = {**MINIMAL, section: {**MINIMAL.get(section, {}), key: value}}
    (problem,) = problems_of(given_)
    assert problem.startswith(f"{section}.{key} = ")
    assert allowed in problem


def test_wrong_element_of_a_list_is_named_by_its_place() -> None:
    assert problems_of({**MINIMAL, "fit": {"milestones": [1, "two"]}}) == [
        "fit.milestones.1 = 'two': a whole number"
    ]


@pytest.mark.parametrize(
    ("given_", "nearest"),
    [
        ({**MINIMAL, "fit": {"learning_rat": 1, "epoch": 3}}, "fit.epochs"),
        ({**MINIMAL, "modle": {}}, "model"),
        ({**MINIMAL, "lambda": 0.5}, "loss.lambda"),
        ({**MINIMAL, "loss": {"lambda_": 0.5}}, "loss.lambda"),
        ({**MINIMAL, 3: 4}, "kind, name"),
    ],
)
def test_unknown_key_brings_the_nearest_one(given_: dict[str, Any], nearest: str) -> None:
    assert any("no such key" in problem and nearest in problem for problem in problems_of(given_))


def test_all_problems_come_at_once() -> None:
    found = problems_of(
        {
            "kind": "train",
            "name": "a/b",
            "data": {"size": "big"},
            "model": {"iterations": 0, "depth": "34", "widht": 3},
            "fit": 3,
            "loss": {"lambda": 2},
        }
    )
    paths = {problem.split(" = ")[0] for problem in found}
    assert paths == {
        "data.root",
        "data.size",
        "model.iterations",
        "model.depth",
        "model.widht",
        "fit",
        "loss.lambda",
    }


def test_rules_across_sections_are_checked() -> None:
    (problem,) = problems_of({**MINIMAL, "fit": {"batch_size": 2}, "cluster": {"workers": 4}})
    assert problem.startswith("fit.batch_size = 2: ")


def test_name_that_is_no_file_name_is_refused() -> None:
    for name in ("a/b", "..", "", ".hidden", "a b", "x\n"):
        (problem,) = problems_of({**MINIMAL, "name": name})
        assert problem.startswith("name = ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- 1\n", "keys and values"),
        ("kind: [", "line 1, column 8"),
        ("kind: train\n  name: x\n", "line 2, column 7"),
        ("kind: train\nname: x\nname: y\n", "line 3, column 1: the key 'name' stands here twice"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: !!set {b}\n", "could not determine a constructor"),
        ("kind: trian\n", "the nearest is train"),
        ("name: x\n", f"kind = None: one of {', '.join(spec.KINDS)}"),
    ],
)
def test_file_that_is_no_job_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = job_file(tmp_path, text)
    with pytest.raises(JobError) as caught:
        spec.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such file"):
        spec.load(tmp_path / "nowhere.yaml")
    with pytest.raises(JobError, match="cannot be read"):
        spec.load(tmp_path)
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="UTF-8"):
        spec.load(tmp_path / "job.yaml")


def test_overrides_win_and_are_typed(tmp_path: Path) -> None:
    path = job_file(tmp_path, "kind: train\nname: x\ndata: {root: /d}\nfit: {lr: 1e-4}\n")
    job = load_train(path, ["fit.lr=3e-4", "model.scales=[0, 2]", "name=y-z", "fit.epochs=3"])
    assert (job.name, job.fit.lr, job.fit.epochs, job.model.scales) == ("y-z", 3e-4, 3, (0, 2))


def test_bad_overrides_are_reported_with_the_rest(tmp_path: Path) -> None:
    path = job_file(tmp_path, "kind: train\nname: x\ndata: {root: /d}\nfit: {epochs: 0}\n")
    with pytest.raises(JobError) as caught:
        spec.load(path, ["fit", "fit.lrr=3", "model.width=[", "data.root.x=3", ".=3"])
    message = str(caught.value)
    for part in (
        "--set fit:",
        "nearest is fit.lr",
        "--set model.width=[: the value is not valid",
        "data.root = {'x': 3}: text",
        "--set .=3:",
        "fit.epochs = 0",
    ):
        assert part in message
    assert len(caught.value.problems) == 6


def test_paths_are_made_absolute_and_uris_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    job = parse_train({**MINIMAL, "data": {"root": "data"}, "fit": {"encoder_weights": "~/resnet.pt"}})
    assert job.data.root == str(tmp_path / "data")
    assert job.fit.encoder_weights == str(tmp_path / "home/resnet.pt")
    assert job.storage == str(tmp_path / "home/rsrnet/runs")
    given_ = {"kind": "predict", "name": "p", "model": "models:/rsrnet@champion", "input": "in"}
    predict = spec.parse({**given_, "output": "s3://bucket/out"})
    assert isinstance(predict, spec.PredictJob)
    assert (predict.model, predict.output) == ("models:/rsrnet@champion", "s3://bucket/out")
    assert predict.input == str(tmp_path / "in")


def test_flat_names_are_those_of_the_file() -> None:
    flat = spec.flatten(spec.parse(MINIMAL))
    assert flat["loss.lambda"] == 0.8
    assert flat["model.scales"] == [0, 1, 2, 3]
    assert {path.split(".")[0] for path in flat} == set(yaml.safe_load(spec.to_yaml(spec.parse(MINIMAL))))


# Any value that the types allow. What breaks a rule is taken out again: it says nothing about writing.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9) | st.sampled_from(
    [
        "1e-4",
        "no",
        "null",
        "~",
        "010",
        "0x1F",
        "1:30",
        "- a",
        "a: b",
        "'",
        '"',
        "#",
        ".inf",
        "true",
        "é\x85\u2028",
    ]
)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**31),
    float: st.floats(0, 1, exclude_min=True, exclude_max=True) | st.floats(1e-9, 1e9),
    bool: st.booleans(),
    str: TEXT,
    str | None: st.none() | TEXT,
    int | None: st.none() | st.integers(1, 99),
    dict[str, float]: st.dictionaries(
        TEXT, st.floats(0, 1, exclude_min=True) | st.integers(1, 9), max_size=2
    ),
    dict[str, str]: st.dictionaries(TEXT, TEXT, max_size=2),
    tuple[int, ...]: st.sets(st.integers(0, 99), max_size=4).map(sorted),
    tuple[float, ...]: st.sets(st.floats(0, 1), max_size=4).map(sorted),
    tuple[str, ...]: st.sets(st.sampled_from(["HCOCO", "HFlickr"])).map(sorted),
}
REQUIRED: dict[str, dict[str, Any]] = {
    "train": {"kind": "train", "name": "x", "data.root": "/data"},
    "tune": {
        "kind": "tune",
        "name": "x",
        "data.root": "/data",
        "space": {"fit.lr": {"grid": [1e-4, 1e-3]}, "model.scales": {"grid": [[0], [0, 1]]}},
        "search.algorithm": "grid",
    },
    **{
        kind: {"kind": kind, "name": "x", "model": "m", "data.root": "/data"}
        for kind in ("evaluate", "iterations", "robustness")
    },
    "ablate": {"kind": "ablate", "name": "x", "data.root": "/data"},
    "predict": {"kind": "predict", "name": "x", "model": "m", "input": "/in", "output": "/out"},
}


def test_a_home_that_cannot_be_is_a_message() -> None:
    with pytest.raises(JobError, match="there is no such user"):
        parse_train({**MINIMAL, "storage": "~\0a/runs"})


def values_of(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Dotted paths with values."""
    drawn = {
        path: st.sampled_from(get_args(hint)) if get_origin(hint) is Literal else LEAVES[hint]
        for path, hint in leaves(spec.KINDS[kind])
        if path not in ("kind", "name", "cluster.workers")  # the batch size depends on the workers
        and path not in REQUIRED[kind]
    }
    return st.fixed_dictionaries(
        {path: st.just(value) for path, value in REQUIRED[kind].items()}, optional=drawn
    )


def nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, key = path.split(".")
        section = tree
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return tree


def valid(values: dict[str, Any], kind: str) -> spec.Job:
    while True:
        try:
            return spec.parse(nested(values))
        except JobError as error:
            before = values
            for problem in error.problems:
                path = str(problem).split(" = ")[0]
                # Two values may exclude each other: then the whole section goes back to its defaults.
                dropped = path if path in values else path.rpartition(".")[0]
                # The path of a problem may go on behind a value's, by a name with dots of its own.
                values = {
                    k: v
                    for k, v in values.items()
                    if not k.startswith(dropped) and not path.startswith(f"{k}.")
                } | REQUIRED[kind]
            if values == before:  # the problem tells a value, not its path
                values = REQUIRED[kind]


@pytest.mark.parametrize("kind", sorted(spec.KINDS))
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_written_job_reads_back_equal(kind: str, data: st.DataObject) -> None:
    job = valid(data.draw(values_of(kind)), kind)
    text = spec.to_yaml(job)
    assert spec.parse(strict_yaml.read(text)) == job
    assert yaml.safe_load(text) == strict_yaml.read(text), "other YAML readers see something else"


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_job_files_are_valid_programs(path: Path) -> None:
    spec.load(path)
    assert path.read_text().splitlines()[0] == spec.FIRST_LINE
    assert path.stat().st_mode & 0o111 == 0o111


def test_paper_job_holds_nothing_but_the_papers_network_loss_and_recipe() -> None:
    job = load_train(ROOT / "jobs" / "train.yaml")
    assert (job.model, job.loss, job.fit) == (RSRNetConfig(), LossConfig(), FitConfig())


def test_reading_a_job_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'numpy'}"
    code = f"import sys, rsrnet_platform.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
