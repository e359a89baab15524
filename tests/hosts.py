"""Several hosts on one machine: Linux network namespaces with addresses, names and disks of their own.

Each host is a namespace with one network card, `eth0`, on a switch that they share; nothing of it is seen from outside,
and no address of the machine is taken. Processes run in a host by `ip netns exec`, which also gives them the host's own
`/etc/hosts`. The disk is the machine's, as if every host had mounted the same file system.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
PREFIX = "rsr"
"""Of the names of hosts; the id of the test process follows."""

HOSTS_FILES = Path("/etc/netns")
"""`ip netns exec NAME` puts the files of the folder NAME in here in place of those in `/etc`."""


def why_not() -> str | None:
    """Why this machine has no room for hosts; None: it has."""
    if shutil.which("ip") is None:
        return "several hosts on one machine need iproute2 (the program ip)"
    if os.geteuid() != 0:
        return "several hosts on one machine need root, for network namespaces"
    name = f"rsrnet-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not allowed here ({made.stderr.strip()})"
    _ip("netns", "del", name)
    return None


@dataclass
class Host:
    """A host: a network namespace, and a folder that only its processes use."""

    name: str
    """Of the namespace; unique on the machine."""

    address: str
    folder: Path
    """Home, and Ray's sessions. Its path is short, because Ray puts sockets into it."""

    environment: dict[str, str] = field(default_factory=dict)
    """Of its processes, besides that of the tests."""

    own_disk: Path | None = None
    """A folder in whose place this host sees a disk of its own."""

    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """A command as it is run on this host."""
        words = [str(word) for word in command]
        if self.own_disk is not None:
            mount = f'mount -t tmpfs none "{self.own_disk}" && exec "$@"'
            words = ["unshare", "--mount", "sh", "-c", mount, "sh", *words]
        return ["ip", "netns", "exec", self.name, *words]

    def start(self, *command: str | Path, log: str | None = None) -> subprocess.Popen[str]:
        """Start a program; what it says comes by a pipe, or goes to a log in the host's folder."""
        out = subprocess.PIPE if log is None else (self.folder / log).open("a")
        process = subprocess.Popen(
            self.command(command),
            env={**os.environ, **self.environment},
            cwd=self.folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """What runs on this host."""
        return _processes(self.name)

    def commands(self) -> list[str]:
        """Command lines of what runs on this host."""
        return [_command(each) for each in self.processes()]

    def start_ray(self, *, head: Host | None = None, cpus: int = 1) -> None:
        """Start a node of a Ray cluster, the head unless it is told of one, and wait for it."""
        command: list[str | Path] = [BIN / "ray", "start", "--block", f"--node-ip-address={self.address}"]
        command += [f"--temp-dir={self.folder}", f"--num-cpus={cpus}", "--object-store-memory=268435456"]
        command += (
            [f"--address={head.address}:6379"] if head else ["--head", f"--dashboard-host={self.address}"]
        )
        log = self.folder / "ray.log"
        for _ in range(3):  # Ray gives up after 30 s, which a busy machine needs now and then
            log.unlink(missing_ok=True)
            node = self.start(*command, log=log.name)
            while node.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return
                time.sleep(0.1)
        raise AssertionError(log.read_text())

    def submit(self, job_file: Path, head: Host, **settings: object) -> subprocess.Popen[str]:
        """Send a job from this host to the cluster of a head, with overrides; its messages come by a pipe."""
        folder = self.folder / "jobs"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(job_file, folder)
        words: list[str | Path] = [BIN / "ray", "job", "submit", "--address", f"http://{head.address}:8265"]
        words += ["--working-dir", folder, "--", f"./{job_file.name}"]
        for path, value in settings.items():
            words += ["--set", f"{path.replace('__', '.')}={value}"]
        return self.start(*words)

    def training(self) -> list[str]:
        """What works for a training on this host: names of actors."""
        return [name for name in self.commands() if "RayTrainWorker" in name or "TrainController" in name]

    def kill(self) -> None:
        """End everything that runs on this host at once, as a power cut does."""
        while left := self.processes():
            for process in left:
                _kill(process)
            for own in self._started:
                own.wait(30)
        self._started.clear()

    def cut(self) -> None:
        """Pull the plug of the network card; the processes stay."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        """Connect it, with its address."""
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "route", "replace", "default", "dev", "eth0")


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Context: hosts that reach each other by address, and whose Ray asks for a token that they have.

    Args:
        names: of the hosts here, short ones.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    switch = f"{folder.name}-switch"
    token = secrets.token_hex(32)
    made: list[Host] = []
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for number, name in enumerate(names, start=1):
            host = Host(f"{folder.name}-{name}", f"10.77.0.{number}", folder / name)
            host.environment = {
                "HOME": str(host.folder),
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": token,
                "RAY_TMPDIR": str(host.folder),
            }
            _install(host, switch, f"port{number}")
            made.append(host)
        yield made
    finally:
        for host in made:
            host.kill()
        _remove(folder.name)


def _sweep() -> None:
    """Remove what tests left that were killed."""
    found = {name.split("-")[0] for name in _namespaces() if name.startswith(PREFIX)}
    for begin in found:
        number = begin.removeprefix(PREFIX)
        if number.isdigit() and not psutil.pid_exists(int(number)):
            _remove(begin)


def _remove(begin: str) -> None:
    """Remove all hosts whose names begin so, with their processes and files."""
    for name in _namespaces():
        if name.startswith(f"{begin}-"):
            while left := _processes(name):
                for process in left:
                    _kill(process)
                time.sleep(0.05)
            _ip("netns", "del", name)
            shutil.rmtree(HOSTS_FILES / name, ignore_errors=True)
    for folder in Path(tempfile.gettempdir()).iterdir():
        if folder.name == begin or folder.name.startswith(f"{begin}-"):
            shutil.rmtree(folder, ignore_errors=True)


def _install(host: Host, switch: str, port: str) -> None:
    """Make a host's folder, its namespace with a card on the switch, and its hosts file."""
    host.folder.mkdir()
    _ip("netns", "add", host.name)
    (HOSTS_FILES / host.name).mkdir(parents=True)
    # As Debian's installer writes it: who asks for his own name learns nothing that others could use.
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {os.uname().nodename}"]
    (HOSTS_FILES / host.name / "hosts").write_text("\n".join(lines) + "\n")
    _ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("-n", switch, "link", "set", port, "master", "switch", "up")
    _ip("-n", host.name, "link", "set", "lo", "up")
    _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    host.plug_in()


def _namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _processes(namespace: str) -> list[psutil.Process]:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
    alive = []
    for number in found.stdout.split():
        with suppress(psutil.NoSuchProcess):
            alive.append(psutil.Process(int(number)))
    return alive


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
