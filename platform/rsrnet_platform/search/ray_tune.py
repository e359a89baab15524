"""The trials of a search on Ray Tune: each in an actor, or in a group of DDP workers under one.

Of Tune this uses the event loop, the schedulers, retries and the reuse of actors. What a search remembers is its
own (:mod:`rsrnet_platform.search.trials`, and the checkpoints in each trial's folder), so that it goes on exactly
where it was killed, whatever Tune had written by then.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rsrnet_platform import spec
from rsrnet_platform.channel import open_stop_sign
from rsrnet_platform.cluster import Cluster
from rsrnet_platform.cluster.place import count
from rsrnet_platform.errors import causes, is_user_error
from rsrnet_platform.interruption import Interruption, Stopped
from rsrnet_platform.restart import INTERRUPTED
from rsrnet_platform.search import schedulers
from rsrnet_platform.search.ledger import Ledger
from rsrnet_platform.search.schedulers import INDEX
from rsrnet_platform.search.trial_actor import POINT, Shared, alone
from rsrnet_platform.search.trial_workers import Verdicts, with_workers
from rsrnet_platform.search.trials import Point

_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files that nobody asked for
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends this program like any other
    "RAY_AIR_NEW_OUTPUT": "0",  # prints tables in spite of verbose=0
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",  # it tells of slow calls, such as a store's
    # Tune would wait ten minutes for an actor that does not end before it frees what the actor holds.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment of Tune, unless the user set it."""


def concurrency(job: spec.SearchJob, place: Cluster) -> int:
    """How many trials run at once."""
    room = place.groups(job.cluster.workers)
    return room if job.search.concurrent is None else min(room, job.search.concurrent)


def run(
    shared: Shared,
    suggest: Callable[[], tuple[int, Point] | None],
    most_epochs: int,
    ledger: Ledger,
    interruption: Interruption,
) -> None:
    """Run trials until there are no more.

    Args:
        shared: what every trial gets.
        suggest: number and point of the next trial; None: there are no more.
        most_epochs: epochs of the longest trial, over all folds.
        ledger: knows the trials of earlier starts, and is told what happens.
        interruption: tells the search to stop.

    Raises:
        Stopped: if it was told to stop; every trial in hand has kept a checkpoint.
        UserError: (and the other errors of ``errors.USER_ERRORS``) if a trial met what only the user can mend.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # It misses those files, and tells every failure of a trial with its traceback; the report has the reason.
    for name in ("analysis.experiment_analysis", "execution.tune_controller", "tune"):
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)
    with open_stop_sign() as sign:
        _fit(replace(shared, sign=sign), suggest, most_epochs, ledger, interruption)


def _fit(
    shared: Shared,
    suggest: Callable[[], tuple[int, Point] | None],
    most_epochs: int,
    ledger: Ledger,
    interruption: Interruption,
) -> None:
    """See :func:`run`."""
    job, place = shared.job, shared.place
    answer = None
    in_actor = job.cluster.workers == 1
    if not in_actor and job.search.scheduler != "none":
        # On this machine, which cannot be taken away without ending the search anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        verdicts: Any = ray.remote(num_cpus=0)(Verdicts).options(scheduling_strategy=here).remote()
        shared = replace(shared, verdicts=verdicts)
        answer = verdicts.say.remote
    # The function of a trial with workers of its own only waits for them: it must not take a CPU from them.
    held = {"memory": 1.0}
    selector = None
    if in_actor:
        held, selector = place.share.amounts, [dict(place.share.labels)]
    resources = tune.PlacementGroupFactory([held], bundle_label_selector=selector)
    trainable = tune.with_parameters(alone if in_actor else with_workers, shared=shared)
    scratch = Path(shared.folder).with_name("ray")
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=_Suggestions(suggest, interruption, ledger),
            scheduler=schedulers.make(job.search, most_epochs, ledger.journal.in_order(), answer),
            num_samples=-1,
            max_concurrent_trials=concurrency(job, place),
            reuse_actors=in_actor,
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            callbacks=[_Listener(ledger, interruption, shared.sign)],
            # Ray Train restarts workers by itself: both would multiply.
            failure_config=tune.FailureConfig(max_failures=job.cluster.max_failures if in_actor else 0),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except tune.TuneError as error:
        # What the listener raises comes wrapped, with tracebacks in its text.
        raise next(filter(_is_told, causes(error)), error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _NotKept:
    """Mixin for what Tune would pickle for a restore of its own, which is never asked for."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Suggestions(_NotKept, Searcher):
    """Hands out the next trial whenever there is room for it."""

    def __init__(
        self, suggest: Callable[[], tuple[int, Point] | None], interruption: Interruption, ledger: Ledger
    ) -> None:
        super().__init__()
        self._suggest = suggest
        self._interruption = interruption
        self._ledger = ledger

    def suggest(self, trial_id: str) -> Any:
        if self._interruption.asked():
            if not self._ledger.running:  # Tune would wait for a suggestion
                raise _stopped(0)
            return None
        suggestion = self._suggest()
        if suggestion is None:
            return Searcher.FINISHED
        index, point = suggestion
        return {INDEX: index, POINT: dict(point)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the ledger says how trials ended."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class _Listener(_NotKept, tune.Callback):
    """Tells the ledger what Tune says, and stops the trials when the search is told to stop."""

    def __init__(self, ledger: Ledger, interruption: Interruption, sign: ActorHandle) -> None:
        self._ledger = ledger
        self._interruption = interruption
        self._sign = sign
        self._interrupted: set[int] = set()
        self._told = False

    def on_step_begin(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        if not self._interruption.asked():
            return
        if not self._told:
            self._sign.stop.remote()
            self._told = True
        running = {trial.index for trial in self._ledger.running}
        if running <= self._interrupted:
            raise _stopped(len(running))

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self._ledger.begin(trial.config[INDEX], trial.config[POINT])

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if INTERRUPTED in result:
            self._interrupted.add(trial.config[INDEX])
        else:
            self._ledger.hear(trial.config[INDEX], result)

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        if trial.config[INDEX] not in self._interrupted:  # it is not over
            self._ledger.end(trial.config[INDEX])

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        self._ledger.begin(trial.config[INDEX], trial.config[POINT])  # it may have died before it started
        self._ledger.end(trial.config[INDEX], error=_reason(trial))


def _stopped(trials: int) -> Stopped:
    return Stopped(f"Stopped with {count(trials, 'trial')} in hand. The same job goes on from there.")


def _is_told(error: BaseException) -> bool:
    """Whether an error is what the listener raised: a message for the user."""
    return is_user_error(error) or isinstance(error, Stopped)


def _reason(trial: Any) -> str:
    """What the error of a trial says, without the traceback that Ray puts before it."""
    file = Path(trial.error_file) if trial.error_file else None
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file and file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "died without a word")
