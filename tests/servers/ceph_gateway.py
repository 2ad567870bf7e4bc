"""A real S3-compatible object store for tests: one Ceph cluster in memory with its RADOS gateway, on loopback.

    python tests/servers/ceph_gateway.py [FOLDER]     runs one until Ctrl-C and prints how to reach it

Mocks accept what real servers refuse (wrong credentials, over-long keys), so the store's contract suite runs on
both. Needs the packages of PACKAGES. Nothing listens beyond 127.0.0.1; the objects live in at most 1 GiB of memory
and are gone with the processes, which end with their parent even when it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = "ceph-mon ceph-osd ceph-mgr radosgw ceph-common"
INSTALL = f"apt-get update && apt-get install -y --no-install-recommends {PACKAGES}"
PROGRAMS = ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")


class ServerFailed(RuntimeError):
    """The gateway did not come up; holds the end of its logs."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an S3 server listens and the credentials it accepts."""

    url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """What boto3's credential chain reads."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }


def missing_programs() -> list[str]:
    """The programs this machine lacks; empty when a gateway can be started."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


CONFIG = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
mon initial members = a
public addr = 127.0.0.1
keyring = {folder}/keyring
auth allow insecure global id reclaim = false
ms bind ipv6 = false
ms bind msgr1 = false
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
mon data = {folder}/mon/a
osd data = {folder}/osd/0
mgr data = {folder}/mgr
mon data avail crit = 1
mon cluster log to file = false
osd objectstore = memstore
memstore device bytes = 1073741824
osd memory target = 939524096
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dns name = localhost
rgw thread pool size = 64
"""


@contextlib.contextmanager
def ceph_gateway(folder: Path, *, timeout: float = 90.0) -> Iterator[Endpoint]:
    """Runs a gateway while the block runs; its files and logs lie in `folder` (a new or empty one).

    Raises ServerFailed when it is not up within `timeout` seconds.
    """
    folder = folder.resolve()
    for name in ("mon", "osd/0", "mgr", "run", "log"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    port, mon_port = _free_ports(2)
    config = folder / "ceph.conf"
    fsid = str(uuid.uuid4())
    config.write_text(CONFIG.format(folder=folder, fsid=fsid, port=port, mon_port=mon_port), "utf-8")
    keyring = str(folder / "keyring")
    deadline = time.monotonic() + timeout
    log = (folder / "log" / "start.log").open("wb")
    daemons: list[subprocess.Popen[bytes]] = []

    def call(*command: str, tries: int = 1) -> None:
        for left in range(tries, 0, -1):
            try:
                subprocess.run(command, check=True, stdout=log, stderr=log, timeout=30)
                return
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
                if left == 1 or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def start(*command: str) -> None:
        daemons.append(
            subprocess.Popen(
                [*command, "-f", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
            )
        )

    conf = ("-c", str(config))
    try:
        try:
            call("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
            for name, caps in {
                "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
                "client.rgw.a": {"mon": "allow rw", "osd": "allow rwx", "mgr": "allow r"},
                "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
                "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
            }.items():
                flags = [part for what, cap in caps.items() for part in ("--cap", what, cap)]
                call("ceph-authtool", keyring, "--gen-key", "-n", name, *flags)
            monmap = str(folder / "monmap")
            call("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", "--fsid", fsid, monmap)
            call("ceph-mon", *conf, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
            start("ceph-mon", "-i", "a")
            osd = str(uuid.uuid4())
            call("ceph", *conf, "--connect-timeout", "5", "osd", "new", osd, "0", tries=20)
            call("ceph-osd", *conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
            start("ceph-osd", "-i", "0")
            start("ceph-mgr", "-i", "x")
            start("radosgw", "-n", "client.rgw.a")
            while not _listens(port):
                died = [d.args for d in daemons if d.poll() is not None]
                if died or time.monotonic() > deadline:
                    raise ServerFailed(f"Ceph's gateway is not up; ended: {died}; {_log_tails(folder)}")
                time.sleep(0.1)
            # fmt: off
            call("radosgw-admin", *conf, "-n", "client.rgw.a", "user", "create", "--uid=test",
                 "--display-name=test", "--access-key=test-access", "--secret-key=test-secret")
            # fmt: on
        except (subprocess.SubprocessError, OSError) as error:
            raise ServerFailed(f"Ceph's gateway did not start ({error}); {_log_tails(folder)}") from error
        yield Endpoint(f"http://127.0.0.1:{port}", "test-access", "test-secret")
    finally:
        for daemon in reversed(daemons):  # nothing in memory is worth a clean shutdown
            daemon.kill()
        for daemon in daemons:
            daemon.wait(10)
        log.close()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans when the test run is killed


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def _log_tails(folder: Path) -> str:
    tails = []
    for path in sorted((folder / "log").iterdir()):
        lines = path.read_text("utf-8", "replace").splitlines()[-8:]
        tails.append("\n".join([f"--- {path}", *lines]))
    return "\n".join(tails)


def _main() -> None:
    if lacking := missing_programs():
        raise SystemExit(f"{', '.join(lacking)} not found; install with: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="ceph-") as made:
        with ceph_gateway(Path(sys.argv[1] if len(sys.argv) > 1 else made)) as endpoint:
            for name, value in {"AWS_ENDPOINT_URL": endpoint.url, **endpoint.environment}.items():
                print(f"export {name}={value}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


if __name__ == "__main__":
    _main()
