"""The space of a search, as job files declare it: what is accepted, what is refused and how, what it draws."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsrnet.config import ConfigError
from rsrnet_platform import spec, strict_yaml
from rsrnet_platform.errors import JobError
from rsrnet_platform.search import space
from rsrnet_platform.search.space import Domain

RANDOM = {"algorithm": "random", "trials": 5}
OPTUNA = {"algorithm": "optuna", "trials": 5}
ONE_OF_EACH: dict[str, Any] = {
    "model.iterations": {"grid": [4, 8, 12]},
    "model.scales": {"choice": [[0], [0, 1], []]},
    "loss.lambda": {"uniform": [0.5, 1]},
    "fit.lr": {"loguniform": [1e-5, 1e-3]},
    "fit.batch_size": {"randint": [8, 32]},
}


def parse(space_: Any, search: dict[str, Any] | None = None, **sections: Any) -> spec.TuneJob:
    given_ = {"kind": "tune", "name": "s", "data": {"root": "/data"}, "space": space_, "search": search}
    job = spec.parse(given_ | sections)
    assert isinstance(job, spec.TuneJob)
    return job


def problems_of(space_: Any, search: dict[str, Any] | None = None, **sections: Any) -> list[str]:
    with pytest.raises(JobError) as caught:
        parse(space_, search, **sections)
    return [str(problem) for problem in caught.value.problems]


# What is accepted


@pytest.mark.parametrize(
    ("space_", "search"),
    [
        ({"model.iterations": {"grid": [4, 8]}}, None),
        *(({path: domain}, RANDOM) for path, domain in ONE_OF_EACH.items() if "grid" not in domain),
        *(({path: domain}, OPTUNA) for path, domain in ONE_OF_EACH.items() if "grid" not in domain),
        (ONE_OF_EACH, RANDOM),
        ({"model.reasoning": {"grid": ["gru", "conv"]}, "data.size": {"grid": [64, 128]}}, None),
        ({"fit.encoder_weights": {"choice": ["imagenet", "none", "/weights.pth"]}}, RANDOM),
        ({"fit.milestones": {"grid": [[], [3], [3, 5]]}, "fit.weight_decay": {"grid": [0, 1e-4]}}, None),
    ],
)
def test_every_domain_is_accepted_and_written_back(
    space_: dict[str, Any], search: dict[str, Any] | None, tmp_path: Path
) -> None:
    job = parse(space_, search)
    assert job.space == space_
    path = tmp_path / "job.yaml"
    path.write_text(spec.to_yaml(job))
    assert spec.load(path) == job
    assert space.parse(job.space) == {
        path: Domain(kind, tuple(values))
        for path, domain in space_.items()
        for kind, values in domain.items()
    }


def test_overrides_reach_into_a_space(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("kind: tune\nname: s\ndata: {root: /d}\nspace:\n  fit.lr: {grid: [1e-4]}\n")
    changes = ["space.fit.lr={loguniform: [1e-5, 1e-3]}", "space.model.scales={choice: [[0], [1, 2]]}"]
    job = spec.load(path, [*changes, "search={algorithm: optuna, trials: 3}"])
    assert isinstance(job, spec.TuneJob)
    assert job.space == {
        "fit.lr": {"loguniform": [1e-5, 1e-3]},
        "model.scales": {"choice": [[0], [1, 2]]},
    }
    path.write_text("kind: tune\nname: s\ndata: {root: /d}\n")
    job = spec.load(path, ["space.fit.lr={grid: [1e-4]}"])
    assert isinstance(job, spec.TuneJob)
    assert job.space == {"fit.lr": {"grid": [1e-4]}}


def test_paths_of_weights_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/somewhere/me")
    job = parse({"fit.encoder_weights": {"grid": ["none", "imagenet", "a.pth", "~/b.pth"]}})
    weights = ["none", "imagenet", str(tmp_path / "a.pth"), "/somewhere/me/b.pth"]
    assert job.space == {"fit.encoder_weights": {"grid": weights}}


def test_paper_values_are_the_papers() -> None:
    assert spec.paper_values(["model.iterations", "loss.lambda", "model.scales", "fit.lr"]) == {
        "model.iterations": 12,
        "loss.lambda": 0.8,
        "model.scales": [0, 1, 2, 3],
        "fit.lr": 1e-4,
    }


def test_a_trial_is_the_training_with_the_values_of_its_point() -> None:
    job = parse(
        {"model.scales": {"grid": [[0], [1]]}}, fit={"epochs": 3}, cluster={"workers": 2}, storage="/x"
    )
    training = spec.training(job, {"model.scales": [0, 2], "loss.lambda": 0.5}, "s-0001")
    assert (training.kind, training.name, training.storage) == ("train", "s-0001", "/x")
    assert (training.model.scales, training.loss.lambda_) == ((0, 2), 0.5)
    assert (training.fit, training.data, training.cluster.workers) == (job.fit, job.data, job.cluster.workers)
    with pytest.raises(ConfigError, match=r"model\.combination"):
        spec.training(job, {"model.reasoning": "none"}, "s-0002")


# What is refused


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("model.iteration", "model.iterations"),
        ("iterations", "model.iterations"),
        ("lambda", "loss.lambda"),
        ("modle.iterations", "model.iterations"),
        ("model.lr", "fit.lr"),
        ("data.sizes", "data.size"),
    ],
)
def test_unknown_path_brings_the_nearest_one(path: str, nearest: str) -> None:
    (problem,) = problems_of({path: {"grid": [1, 2]}})
    assert problem.startswith(f"space.{path} = ")
    assert "no such setting" in problem
    assert problem.endswith(f"the nearest is {nearest}")


@pytest.mark.parametrize(
    "path",
    [
        "name",
        "kind",
        "storage",
        "data.root",
        "data.train",
        "data.subsets",
        "cluster.workers",
        "tracking.uri",
    ],
)
def test_what_is_the_same_for_every_trial_cannot_vary(path: str) -> None:
    (problem,) = problems_of({path: {"grid": ["a", "b"]}})
    assert problem.startswith(f"space.{path} = ")
    assert "cannot vary" in problem
    assert "nearest" not in problem


@pytest.mark.parametrize(
    ("path", "domain", "named", "allowed"),
    [
        # Types
        ("model.iterations", {"uniform": [2, 8]}, ".uniform = [2, 8]", "a whole number; uniform draws"),
        ("data.size", {"loguniform": [32, 64]}, ".loguniform = [32, 64]", "take randint or choice"),
        ("model.iterations", {"choice": [2, 3.5]}, ".choice = 3.5", "a whole number"),
        ("model.iterations", {"choice": [2, "3"]}, ".choice = '3'", "a whole number"),
        ("fit.lr", {"choice": [1e-4, "fast"]}, ".choice = 'fast'", "a number"),
        ("fit.lr", {"choice": [False]}, ".choice = False", "a number"),
        ("fit.lr", {"choice": [None]}, ".choice = None", "a number"),
        ("fit.lr", {"choice": [float("inf")]}, ".choice = inf", "a finite number"),
        ("model.scales", {"choice": [[0], 1]}, ".choice = 1", "a list"),
        # The rules of the setting itself
        ("loss.lambda", {"choice": [0.8, 1.5]}, ".choice = 1.5", "above 0, at most 1"),
        ("loss.lambda", {"uniform": [0, 1]}, ".uniform = 0", "above 0, at most 1"),
        ("model.scales", {"choice": [[0], [0, -1]]}, ".choice = [0, -1]", "at least 0"),
        ("model.depth", {"randint": [18, 34]}, ".randint = [18, 34]", "18 or 34; randint draws every"),
        ("model.width", {"randint": [8, 64]}, ".randint = [8, 64]", "a multiple of 4"),
        ("model.reasoning", {"choice": ["gru", "lstm"]}, ".choice = 'lstm'", "gru, conv, similarity or none"),
        ("model.reasoning", {"choice": ["none"]}, ".choice = 'none'", "excluded by model.combination"),
        # Intervals
        ("fit.lr", {"loguniform": [0, 1e-3]}, ".loguniform = [0, 0.001]", "above 0"),
        ("fit.lr", {"loguniform": [-1, 1e-3]}, ".loguniform = [-1, 0.001]", "above 0"),
        ("fit.lr", {"uniform": [1e-3, 1e-5]}, ".uniform = [0.001, 1e-05]", "the smaller first"),
        ("fit.lr", {"uniform": [1e-3, 1e-3]}, ".uniform = [0.001, 0.001]", "the smaller first"),
        ("fit.lr", {"uniform": [1e-3]}, ".uniform = [0.001]", "two numbers"),
        ("fit.lr", {"uniform": [1e-5, 1e-4, 1e-3]}, ".uniform = [1e-05, 0.0001, 0.001]", "two numbers"),
        ("fit.lr", {"uniform": ["a", "b"]}, ".uniform = ['a', 'b']", "two numbers"),
        ("fit.lr", {"uniform": [False, True]}, ".uniform = [False, True]", "two numbers"),
        ("fit.lr", {"uniform": [1e-5, float("inf")]}, ".uniform = [1e-05, inf]", "two numbers"),
        ("fit.lr", {"uniform": [float("nan"), 1]}, ".uniform = [nan, 1]", "two numbers"),
        ("fit.epochs", {"randint": [1.5, 3]}, ".randint = [1.5, 3]", "two whole numbers"),
        ("fit.epochs", {"randint": [1.0, 3.0]}, ".randint = [1.0, 3.0]", "two whole numbers"),
        ("fit.epochs", {"randint": [8, 2]}, ".randint = [8, 2]", "the smaller first"),
        # Lists
        ("fit.lr", {"choice": []}, ".choice = []", "a list"),
        ("fit.lr", {"choice": 1e-3}, ".choice = 0.001", "a list"),
        ("fit.lr", {"uniform": {"low": 1}}, ".uniform = {'low': 1}", "a list"),
        ("fit.lr", {"choice": [1e-3, 1e-4, 0.001]}, ".choice = [0.001, 0.0001, 0.001]", "different"),
        ("fit.weight_decay", {"choice": [0, 0.0]}, ".choice = [0, 0.0]", "different"),
        ("model.scales", {"choice": [[0, 1], [0, 1]]}, ".choice = [[0, 1], [0, 1]]", "different"),
        # Domains
        ("fit.lr", {"uniform": [0.1, 0.2], "choice": [1]}, " = {'uniform'", "one domain: {grid: [...]}"),
        ("fit.lr", {"normal": [0, 1]}, " = {'normal'", "one domain: {grid: [...]}"),
        ("fit.lr", {}, " = {}", "one domain: {grid: [...]}"),
        ("fit.lr", [1e-4, 1e-3], " = [0.0001, 0.001]", "one domain: {grid: [...]}"),
        ("fit.lr", None, " = None", "one domain: {grid: [...]}"),
    ],
)
def test_impossible_domain_is_named_with_what_is_allowed(
    path: str, domain: Any, named: str, allowed: str
) -> None:
    (problem,) = problems_of({path: domain}, RANDOM)
    assert problem.startswith(f"space.{path}{named}")
    assert allowed in problem


def test_batch_for_fewer_images_than_workers_is_refused() -> None:
    (problem,) = problems_of({"fit.batch_size": {"randint": [2, 8]}}, RANDOM, cluster={"workers": 4})
    assert problem.startswith("space.fit.batch_size.randint = 2: at least one image for each of the 4")


def test_all_problems_of_a_space_come_at_once() -> None:
    found = problems_of(
        {
            "fit.lr": {"choice": ["fast", -1]},
            "data.root": {"choice": ["/a"]},
            "loss.lambada": {"uniform": [0.1, 0.2]},
            "loss.lambda": {"uniform": [1, 0.5]},
            "model.scales": {"choice": [[0, 0], [1], 3]},
            "fit.precision": {"randint": [16, 32]},
        },
        RANDOM,
        cluster={"workers": 0},
    )
    assert sorted(problem.split(" = ")[0] for problem in found) == [
        "cluster.workers",
        "space.data.root",
        "space.fit.lr.choice",
        "space.fit.lr.choice",
        "space.fit.precision.randint",
        "space.fit.precision.randint",
        "space.loss.lambada",
        "space.loss.lambda.uniform",
        "space.model.scales.choice",
        "space.model.scales.choice",
    ]


def test_space_with_nothing_in_it_is_refused() -> None:
    assert problems_of({})[0].startswith("space = {}: at least one setting to search")
    for nothing in (None, [], "fit.lr"):
        (problem,) = problems_of(nothing)
        assert problem.startswith(f"space = {nothing!r}: a section")


def test_trials_need_ray() -> None:
    (problem,) = problems_of({"fit.lr": {"grid": [1e-3]}}, cluster={"workers": 0})
    assert problem.startswith("cluster.workers = 0: at least 1")


@pytest.mark.parametrize(
    ("search", "space_", "misfits"),
    [
        ({"algorithm": "grid"}, ONE_OF_EACH, set(ONE_OF_EACH) - {"model.iterations"}),
        (OPTUNA, ONE_OF_EACH, {"model.iterations"}),
        (RANDOM, {"fit.lr": {"grid": [1e-3]}, "fit.epochs": {"grid": [3]}}, {"fit.lr", "fit.epochs"}),
    ],
)
def test_domain_that_an_algorithm_cannot_search_is_refused(
    search: dict[str, Any], space_: dict[str, Any], misfits: set[str]
) -> None:
    found = problems_of(space_, search)
    assert {problem.split(" = ")[0] for problem in found} == {f"space.{path}" for path in misfits}
    for problem in found:
        assert "choice" in problem or "search.algorithm" in problem


def test_wrong_search_is_no_misfit_of_the_space() -> None:
    (problem,) = problems_of({"fit.lr": {"loguniform": [1e-5, 1e-3]}}, {"algorithm": "random"})
    assert problem.startswith("search.trials = None: ")


@pytest.mark.parametrize(
    ("search", "key"),
    [
        ({"algorithm": "random", "trials": 0}, "trials"),
        ({"algorithm": "grid", "trials": 3}, "trials"),
        ({"algorithm": "bayes"}, "algorithm"),
        ({"scheduler": "hyperband"}, "scheduler"),
        ({"grace_epochs": 0}, "grace_epochs"),
        ({"reduction_factor": 1}, "reduction_factor"),
        ({"folds": 1}, "folds"),
        ({"metric": "val/loss"}, "metric"),
        ({"seed": -1}, "seed"),
        ({"concurrent": 0}, "concurrent"),
    ],
)
def test_impossible_setting_of_a_search_is_refused(search: dict[str, Any], key: str) -> None:
    (problem,) = problems_of({"fit.lr": {"grid": [1e-3]}}, search)
    assert problem.startswith(f"search.{key} = ")


def test_values_that_exclude_each_other_are_found_before_the_first_trial() -> None:
    reasoning = {"model.reasoning": {"grid": ["gru", "none"]}}
    combination = {"model.combination": {"grid": ["decoder", "average"]}}
    (problem,) = problems_of(reasoning | combination, model={"combination": "decoder"})
    assert problem.startswith("space = {'model.reasoning': 'none', 'model.combination': 'average'}: ")
    # The paper's point has the paper's combination, adaptive, and what the job sets.
    (problem,) = problems_of(
        {"model.combination": {"grid": ["decoder"]}}, model={"combination": "decoder", "reasoning": "none"}
    )
    assert problem.startswith("space = {'model.combination': 'adaptive'}: the paper's own point")


# What it draws

NUMBERS = {
    "fit.lr": st.floats(1e-6, 1, exclude_min=True),
    "loss.lambda": st.floats(1e-6, 1),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **NUMBERS,
    "model.iterations": st.integers(1, 40),
    "model.scales": st.lists(st.integers(0, 5), unique=True, max_size=4),
}


def interval(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=2, max_size=2, unique=True).map(sorted)


def domains(path: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any valid domain of a setting."""
    values = VALUES[path]
    listed = st.lists(values, min_size=1, max_size=4, unique_by=str)
    drawn = [st.fixed_dictionaries({kind: listed}) for kind in ("grid", "choice")]
    if path in NUMBERS:
        kinds: Sequence[str] = ("uniform", "loguniform")
    else:
        kinds = ("randint",) if path == "model.iterations" else ()
    return st.one_of(*drawn, *(st.fixed_dictionaries({kind: interval(values)}) for kind in kinds))


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    paths = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, unique=True))
    return {path: draw(domains(path)) for path in paths}


def job_of(space_: dict[str, Any]) -> spec.TuneJob:
    kinds = {kind for domain in space_.values() for kind in domain}
    return parse(space_, None if kinds == {"grid"} else RANDOM)


@given(spaces())
def test_written_space_reads_back_equal(space_: dict[str, Any]) -> None:
    job = job_of(space_)
    assert job.space == space_
    assert spec.parse(strict_yaml.read(spec.to_yaml(job))) == job


@given(spaces(), st.integers())
def test_what_a_valid_space_draws_is_a_valid_training(space_: dict[str, Any], seed: int) -> None:
    job = job_of(space_)
    source = random.Random(seed)
    for _ in range(3):
        point = {path: domain.draw(source) for path, domain in space.parse(job.space).items()}
        flat = spec.flatten(spec.training(job, point, "trial"))
        for path, value in point.items():
            assert flat[path] == value
            ((kind, values),) = space_[path].items()
            assert value in values if kind in ("grid", "choice") else values[0] <= value <= values[1]


def test_draws_are_spread_as_declared() -> None:
    source = random.Random(1)

    def share(domain: Domain, limit: float) -> float:
        return sum(domain.draw(source) < limit for _ in range(4000)) / 4000

    # Four standard deviations of a share of 4000 draws are at most 0.032.
    assert share(Domain("uniform", (2.0, 6.0)), 3.0) == pytest.approx(0.25, abs=0.032)
    assert share(Domain("loguniform", (1e-5, 1e-1)), 1e-4) == pytest.approx(0.25, abs=0.032)
    assert share(Domain("choice", (1, 2, 5, 9)), 2) == pytest.approx(0.25, abs=0.032)
    dice = [Domain("randint", (1, 6)).draw(source) for _ in range(6000)]
    assert sorted(set(dice)) == [1, 2, 3, 4, 5, 6]
    assert all(abs(dice.count(face) - 1000) < 4 * math.sqrt(6000 * 5 / 36) for face in range(1, 7))
