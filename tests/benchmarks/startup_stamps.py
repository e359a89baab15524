"""``rsrnet run JOB`` that writes down when what began; for ``bench_startup.py``.

    python tests/benchmarks/startup_stamps.py JOB.yaml STAMPS.jsonl

The stages of the job's own process are stamped around the functions that it calls, those of a worker from within it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STAMPS = Path(sys.argv[2]) if len(sys.argv) == 3 else None


def stamp(what: str, when: float | None = None) -> None:
    """Something begins now."""
    with Path(os.environ["RSRNET_STAMPS"]).open("a") as file:
        file.write(json.dumps([what, time.time() if when is None else when]) + "\n")


def stamped(module: Any, name: str, before: str, after: str | None = None) -> None:
    """Have a stamp written before, and perhaps one after, each call of a module's function."""
    function: Callable[..., Any] = getattr(module, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        stamp(before)
        result = function(*arguments, **keywords)
        if after is not None:
            stamp(after)
        return result

    setattr(module, name, call)


def main() -> None:
    os.environ["RSRNET_STAMPS"] = str(STAMPS)
    from rsrnet_platform import cli, cluster, preflight, train

    stamped(train, "run", "lists")
    connect = cluster.connect

    @contextmanager
    def connected(*arguments: Any, **keywords: Any) -> Any:
        stamp("ray")
        with connect(*arguments, **keywords) as place:
            stamp("images")
            yield place

    cluster.connect = connected
    stamped(preflight, "try_weights", "images")
    stamped(train, "prepare", "mlflow")
    stamped(train, "_fit", "ray train")
    import threading

    def when_imported() -> None:
        while (module := sys.modules.get("rsrnet_platform.ray_train")) is None or not hasattr(
            module, "_worker"
        ):
            time.sleep(0.005)
        module._worker = stamping_worker
        stamp("controller")

    threading.Thread(target=when_imported, daemon=True).start()
    cli.main(["run", sys.argv[1]])


def stamping_worker(config: dict[str, Any]) -> None:
    """Stand for the workers' entry point: write down when the process was born, and when it has come here."""
    import json
    import os
    import time
    from pathlib import Path

    import ray.train

    from rsrnet_platform import ray_train, worker

    def note(what: str, when: float) -> None:
        with Path(os.environ["RSRNET_STAMPS"]).open("a") as file:
            file.write(json.dumps([what, when]) + "\n")

    if ray.train.get_context().get_world_rank() == 0:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        boot = time.time() - float(Path("/proc/uptime").read_text().split()[0])
        note("worker", boot + ticks / os.sysconf("SC_CLK_TCK"))
        note("first batch", time.time())
        done = worker.Observer.step_done
        first = []

        def step_done(self: Any, progress: Any) -> None:
            if not first:
                first.append(True)
                note("first step done", time.time())
            done(self, progress)

        worker.Observer.step_done = step_done
    ray_train.train(config["task"], ray_train.RayTrainHost(config["channel"]))


if __name__ == "__main__":
    main()
