"""One run: what it records, that every point is there once, and the state it ends in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rsrnet_platform.store import open_client
from rsrnet_platform.tracking import ATTEMPT_TAG, Tracker, TrackingConfig, TrackingError, prepare


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    config = TrackingConfig(uri=str(tmp_path_factory.mktemp("store")))
    prepare(config)
    return config


@pytest.fixture
def tracker(config: TrackingConfig) -> Tracker:
    return start(config)


def start(
    config: TrackingConfig,
    attempt: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Tracker:
    return Tracker.of_attempt(
        prepare(config),
        config,
        "first",
        attempt or uuid4().hex,
        params=params or {"a": 1},
        tags=tags or {},
        job_yaml="kind: train\n",
    )


def points(tracker: Tracker, key: str) -> list[tuple[int, float]]:
    tracker.flush()
    history = open_client(tracker.uri).get_metric_history(tracker.run_id, key)
    return [(point.step, point.value) for point in history]


def status(tracker: Tracker) -> str:
    tracker.flush()
    return open_client(tracker.uri).get_run(tracker.run_id).info.status


def artifact(tracker: Tracker, path: str) -> Path:
    tracker.flush()
    return Path(open_client(tracker.uri).get_run(tracker.run_id).info.artifact_uri) / path


def test_a_new_run_holds_its_name_parameters_tags_and_job_file(config: TrackingConfig) -> None:
    tracker = Tracker.of_attempt(
        prepare(config),
        config,
        "photographs",
        "attempt",
        params={"fit.lr": 1e-4, "fit.milestones": [30, 40], "fit.seed": 42},
        tags={"mlflow.source.git.commit": "d0de67a", "dataset": "f00"},
        job_yaml="kind: train\n",
    )
    run = open_client(tracker.uri).get_run(tracker.run_id)
    assert run.info.run_name == "photographs"
    assert run.info.status == "RUNNING"
    assert run.data.params == {"fit.lr": "0.0001", "fit.milestones": "[30, 40]", "fit.seed": "42"}
    assert run.data.tags["mlflow.source.git.commit"] == "d0de67a"
    assert run.data.tags["dataset"] == "f00"
    assert run.data.tags["mlflow.user"]
    assert artifact(tracker, "job.yaml").read_text() == "kind: train\n"


def test_more_parameters_and_points_than_one_call_may_hold_are_all_logged(config: TrackingConfig) -> None:
    params = {f"p{index}": index for index in range(250)}
    tracker = Tracker.of_attempt(
        prepare(config), config, "large", uuid4().hex, params=params, tags={}, job_yaml=""
    )
    tracker.log_epochs([(step, {f"m{index}": 0.0 for index in range(30)}) for step in range(50)])
    assert len(open_client(tracker.uri).get_run(tracker.run_id).data.params) == 250
    assert [step for step, _ in points(tracker, "m29")] == list(range(50))


def test_a_run_that_could_not_be_recorded_is_not_left_running(config: TrackingConfig) -> None:
    with pytest.raises(TrackingError, match="bad\\?name"):
        Tracker.of_attempt(
            prepare(config), config, "broken", uuid4().hex, params={"bad?name": 1}, tags={}, job_yaml=""
        )
    client = open_client(prepare(config))
    (run,) = client.search_runs(["1"], filter_string="run_name = 'broken'")
    assert run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_the_run_ends_as_its_block_ended(
    error: type[BaseException] | None, expected: str, tracker: Tracker
) -> None:
    def body() -> None:
        with tracker:
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(error):
            body()
    assert status(tracker) == expected


def test_an_end_told_inside_the_block_stands(tracker: Tracker) -> None:
    with tracker:
        tracker.finish("KILLED")
    assert status(tracker) == "KILLED"


def test_a_restart_reopens_the_run_and_changes_no_parameter(config: TrackingConfig, tracker: Tracker) -> None:
    tracker.finish("FAILED")
    assert status(tracker) == "FAILED"
    run = open_client(tracker.uri).get_run(tracker.run_id)
    again = start(config, run.data.tags[ATTEMPT_TAG], {"a": 2}, {"ray_job_id": "raysubmit_2"})
    with again:
        assert again.run_id == tracker.run_id
        assert status(again) == "RUNNING"
    run = open_client(tracker.uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["ray_job_id"] == "raysubmit_2"
    assert run.data.params == {"a": "1"}


def test_a_replayed_epoch_keeps_its_first_point(tracker: Tracker) -> None:
    tracker.log_epoch(1, {"loss": 0.5, "lr": 0.1})
    tracker.log_epoch(2, {"loss": 0.4})
    tracker.flush()
    restarted = Tracker.attach(tracker.uri, tracker.run_id)
    restarted.log_epoch(2, {"loss": 0.4, "lr": 0.1})
    restarted.log_epoch(3, {"loss": 0.3})
    restarted.flush()
    assert points(tracker, "loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert points(tracker, "lr") == [(1, 0.1), (2, 0.1)]


def test_epochs_that_were_never_logged_are_caught_up_from_the_history(tracker: Tracker) -> None:
    tracker.log_epoch(1, {"loss": 0.5})
    history = [{"loss": 0.5}, {"loss": 0.4}, {"loss": float("nan")}]
    tracker.flush()
    restarted = Tracker.attach(tracker.uri, tracker.run_id)
    restarted.log_epochs(enumerate(history, start=1))
    restarted.flush()
    assert [step for step, _ in points(tracker, "loss")] == [1, 2, 3]
    assert np.isnan(points(tracker, "loss")[2][1])


@given(
    attempts=st.lists(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("ab")), max_size=8), max_size=4)
)
@settings(max_examples=10)
def test_whatever_is_repeated_every_point_is_there_once(
    attempts: list[list[tuple[int, str]]], config: TrackingConfig
) -> None:
    tracker = start(config)
    for attempt in attempts:
        restarted = Tracker.attach(tracker.uri, tracker.run_id)
        for step, key in attempt:
            restarted.log_epoch(step, {key: step / 8})
        restarted.flush()
    expected = {(step, key) for attempt in attempts for step, key in attempt}
    logged = Counter((step, key) for key in "ab" for step, _ in points(tracker, key))
    assert logged == Counter(expected)


def test_a_picture_becomes_an_artifact_of_the_run(tracker: Tracker) -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    tracker.log_image(Image.fromarray(pixels), "pictures/epoch_003/grid.png")
    with Image.open(artifact(tracker, "pictures/epoch_003/grid.png")) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), pixels)


def test_a_run_that_does_not_exist_is_named(config: TrackingConfig) -> None:
    with pytest.raises(TrackingError, match="nosuchrun"):
        Tracker.attach(prepare(config), "nosuchrun").flush()


def test_a_deleted_run_is_not_continued(tracker: Tracker) -> None:
    open_client(tracker.uri).delete_run(tracker.run_id)
    with pytest.raises(TrackingError, match=f"was deleted.*mlflow runs restore --run-id {tracker.run_id}"):
        Tracker.attach(tracker.uri, tracker.run_id).flush()
