"""infra/slurm/run.sbatch on two hosts of this machine: Slurm is stand-ins, Ray and the training are real."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rsrnet_platform import spec
from rsrnet_platform.store import open_client
from tests import hosts
from tests.faults.processes import command_of
from tests.hosts import BIN, Host

SRUN = """#!/usr/bin/env bash
# As Slurm's: on the node that is named, or else on all of them.
nodes=$SLURM_JOB_NODELIST
while [[ $1 == --* ]]; do
    [[ $1 != --nodelist=* ]] || nodes=${1#*=}
    shift
done
for node in ${nodes//,/ }; do
    ip netns exec "$PREFIX-$node" "$@" &
done
trap 'kill $(jobs -p)' TERM
wait
wait
"""

SCONTROL = """#!/usr/bin/env bash
case $1 in
    show) tr , '\\n' <<< "$3" ;;
    requeue) echo "$2" >> "$REQUEUED" ;;
esac
"""

# Each session of the tests has a folder /tmp/rsrnet-ID of its own, which is not that of its Ray cluster.
JOB_ID = str(10**7 + os.getpid())
PORTS = [20000 + int(JOB_ID) % 3000 * 4 + nth for nth in range(4)]

JOB = """
kind: train
name: on-slurm
data: {{root: {data}, val: le50_val.txt, size: 32, loader_processes: 0}}
model: {{depth: 18, width: 4, iterations: 2, scales: [0]}}
fit: {{epochs: 30, batch_size: 4, lr: 2e-3, milestones: [20], encoder_weights: none}}
cluster: {{workers: 2, placement: strict_spread}}
storage: {folder}/runs
tracking: {{uri: {folder}/mlflow.db}}
"""


class Slurm:
    """What `sbatch` would do with the script, once; it can be asked to end, as Slurm does before the time is over."""

    def __init__(self, script: Path, nodes: list[Host], folder: Path) -> None:
        self.script, self.nodes, self.folder = script, nodes, folder
        self.requeued = folder / "requeued"
        programs = folder / "programs"
        programs.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        names = [node.name.rsplit("-", 1)[1] for node in nodes]
        self.environment = {
            **os.environ,
            "HOME": str(nodes[0].folder),
            "PATH": f"{programs}:{BIN}:{os.environ['PATH']}",
            "PREFIX": nodes[0].name.rsplit("-", 1)[0],
            "REQUEUED": str(self.requeued),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_ID": JOB_ID,
            "SLURM_JOB_NODELIST": ",".join(names),
            "SLURM_SUBMIT_DIR": str(script.parents[2]),
        }
        self.environment.pop("RAY_TMPDIR")
        self.environment.pop("RAY_AUTH_MODE")
        self.environment.pop("RAY_AUTH_TOKEN", None)

    def begin(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.nodes[0].command([self.script, *arguments]),
            env=self.environment,
            stdout=(self.folder / "log").open("a"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def slurm(repository: Path, tmp_path: Path) -> Iterator[Slurm]:
    if reason := hosts.why_not():
        pytest.skip(reason)
    with hosts.hosts("one", "two") as made:
        for host in made:
            (hosts.HOSTS_FILES / host.name).mkdir(parents=True, exist_ok=True)
            names = [f"{each.address} {each.name.rsplit('-', 1)[1]}" for each in made]
            lines = ["127.0.0.1 localhost", f"{host.address} {os.uname().nodename}", *names]
            (hosts.HOSTS_FILES / host.name / "hosts").write_text("\n".join(lines) + "\n")
        yield Slurm(repository / "infra/slurm/run.sbatch", made, tmp_path)


def test_without_a_job_file_it_says_how_it_is_called(slurm: Slurm) -> None:
    assert slurm.begin().wait(30) == 2
    assert "sbatch infra/slurm/run.sbatch jobs/train.yaml" in slurm.log()


STAND_IN = """#!/bin/bash
# For ray, python, rsrnet and srun: notes how it was called, and does what a test wants.
echo "$(basename "$0") $*" >> "$FOLDER/calls"
case $(basename "$0") in
    srun) while [[ $1 == --* ]]; do shift; done; exec "$@" ;;
    python) until (($(find "$FOLDER" -name 'node-*' | wc -l) >= ${!#})); do sleep 0.05; done ;;
    ray) trap 'echo "ray ended" >> "$FOLDER/calls"; kill $!; exit' TERM; touch "$FOLDER/node-$$"; sleep 60 & wait ;;
    rsrnet) trap 'echo "job told" >> "$FOLDER/calls"; kill $!; sleep 0.3; exit 143' TERM
        echo "$RAY_AUTH_TOKEN" > "$FOLDER/token"; touch "$FOLDER/runs"
        [[ $ENDS != no ]] || { sleep 60 & wait; }
        exit "$ENDS" ;;
esac
"""


class Rehearsal:
    """The script on this machine, with stand-ins for every program that it starts."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.folder = folder
        programs = folder / ".venv/bin"
        programs.mkdir(parents=True)
        for name in ("ray", "python", "rsrnet", "srun"):
            (programs / name).write_text(STAND_IN)
        (programs / "scontrol").write_text(SCONTROL)
        for program in programs.iterdir():
            program.chmod(0o755)
        self._script = script

    def begin(self, ends: str, *arguments: str, token: str | None = None) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "FOLDER": str(self.folder),
            "ENDS": ends,
            "REQUEUED": str(self.folder / "requeued"),
            "SLURM_JOB_ID": JOB_ID,
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_JOB_NODELIST": "localhost,127.0.0.2",
            "SLURM_SUBMIT_DIR": str(self.folder),
        }
        if token is not None:
            environment["RAY_AUTH_TOKEN"] = token
        command, pipe = [self._script, *arguments], subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def rehearsal(repository: Path, tmp_path: Path) -> Rehearsal:
    return Rehearsal(repository / "infra/slurm/run.sbatch", tmp_path)


@pytest.mark.parametrize("code", [0, 2])
def test_ends_with_the_code_of_the_job_and_ends_the_cluster(rehearsal: Rehearsal, code: int) -> None:
    script = rehearsal.begin(str(code), "job.yaml", "--set", "name=a b")

    said, _ = script.communicate(timeout=60)

    assert script.returncode == code, said
    head, node = [call for call in rehearsal.calls() if call.startswith("ray start")]
    assert "--head" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--address=" in node
    assert "rsrnet run job.yaml --set name=a b" in rehearsal.calls()
    assert rehearsal.calls().count("ray ended") == 2
    assert not (rehearsal.folder / "requeued").exists()


def test_a_node_gets_all_cpus_of_the_task_and_ports_of_this_slurm_job(rehearsal: Rehearsal) -> None:
    """Since Slurm 22.05 srun does not take the CPUs from sbatch; jobs on one node must not meet at one port."""
    script = rehearsal.begin("0", "job.yaml")

    said, _ = script.communicate(timeout=60)

    head, node = [call for call in rehearsal.calls() if call.startswith("srun") and "ray start" in call]
    cluster, job_api, client, agent = PORTS
    for call in (head, node):
        options, _, command = call.partition(" ray start ")
        assert "--cpus-per-task=3" in options.split()
        assert {"--num-cpus=3", f"--dashboard-agent-listen-port={agent}"} <= {*command.split()}
    ports = {f"--port={cluster}", f"--dashboard-port={job_api}", f"--ray-client-server-port={client}"}
    assert ports <= {*head.split()}
    assert not ports & {*node.split()}
    assert f"the job API is at 127.0.0.1:{job_api} of localhost\n" in said
    assert max(PORTS) < 32768  # where Linux begins to deal them out


def test_the_token_of_who_called_sbatch_is_kept_and_otherwise_one_is_made(rehearsal: Rehearsal) -> None:
    def token(given: str | None) -> str:
        script = rehearsal.begin("0", "job.yaml", token=given)
        said, _ = script.communicate(timeout=60)
        assert script.returncode == 0, said
        return (rehearsal.folder / "token").read_text().strip()

    assert token("of-who-called") == "of-who-called"
    first, second = token(None), token(None)
    assert len(first) == len(second) == 64
    assert first != second


@pytest.mark.parametrize(
    ("told", "queued"),
    [([signal.SIGUSR1], True), ([signal.SIGTERM], False), ([signal.SIGUSR1, signal.SIGTERM], True)],
)
def test_leaves_when_it_is_told_and_is_queued_again_if_its_time_is_over(
    rehearsal: Rehearsal, told: list[signal.Signals], queued: bool
) -> None:
    """SIGUSR1 is Slurm's notice, SIGTERM a user's `scancel`; or, after the notice, that the time is over."""
    script = rehearsal.begin("no", "job.yaml")
    wait_until((rehearsal.folder / "runs").exists, script)

    for each in told:
        script.send_signal(each)
        wait_until(lambda: "job told" in rehearsal.calls(), script)

    said, _ = script.communicate(timeout=60)
    assert script.returncode == 143, said
    assert "job told" in rehearsal.calls()
    assert rehearsal.calls().count("ray ended") == 2
    requeued = rehearsal.folder / "requeued"
    assert (requeued.read_text() if requeued.exists() else "") == (f"{JOB_ID}\n" if queued else "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_training_on_two_nodes_leaves_in_time_and_goes_on_when_it_is_queued_again(
    slurm: Slurm, squares: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(data=squares, folder=tmp_path))

    first = slurm.begin(job)
    wait_until(lambda: "epoch 2/30 done" in slurm.log(), first, slurm.log)
    require_nobody_sees_the_token(slurm)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(120) == 143, slurm.log()
    assert slurm.requeued.read_text() == f"{JOB_ID}\n"
    require_nothing_is_left(slurm)

    assert slurm.begin(job).wait(900) == 0, slurm.log()
    assert slurm.requeued.read_text() == f"{JOB_ID}\n"
    assert f"2 of the Ray cluster's nodes are there, its head at 10.77.0.1:{PORTS[0]}" in slurm.log()
    require_nothing_is_left(slurm)

    loaded = spec.load(job)
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(loaded.tracking.experiment).experiment_id])
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, 31))


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str], log: Callable[[], str] = str
) -> None:
    deadline = time.monotonic() + 800
    while not condition():
        assert process.poll() is None, log()
        assert time.monotonic() < deadline, log()
        time.sleep(0.1)


def require_nobody_sees_the_token(slurm: Slurm) -> None:
    """It is in the environment of Ray's processes, and neither in a command line nor in the log."""
    processes = [process for node in slurm.nodes for process in node.processes()]
    tokens = {token for each in processes if (token := environment(each).get("RAY_AUTH_TOKEN"))}
    assert len(tokens) == 1
    (token,) = tokens
    assert len(token) == 64
    assert not [each for each in processes if token in command_of(each)]
    assert token not in slurm.log()


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.NoSuchProcess:
        return {}


def require_nothing_is_left(slurm: Slurm) -> None:
    """A process of Ray's ends by itself when its raylet has; Slurm would end it with its step, not so the stand-in."""
    deadline = time.monotonic() + 30
    while left := [command for node in slurm.nodes for command in node.commands()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert not Path(f"/tmp/rsrnet-{JOB_ID}").exists()
