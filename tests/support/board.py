"""A board for ARM without a board: Debian for aarch64 in a folder, emulated by qemu, behind a real sshd on loopback.

``python -m tests.support.board`` starts one and tells how to reach it, until it is interrupted. The first start fetches
packages (a minute and 400 MB in the user's folder for caches); each board begins as they were unpacked, and what is
written on it goes with it.

Programs for ARM run as if they were of this machine: Linux 6.7 lets a user namespace have a table of its own of what
runs which programs (binfmt_misc), so that neither root nor the table of this machine is needed. The processor is
qemu's Cortex-A76, and ``/proc/cpuinfo`` and ``/sys`` are those of `CPUINFO` and of a folder. Outputs, types and bytes
are those of a board; times are not, and say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtimes import cache
from tests.support import arm_system
from tests.support.arm_system import Failed

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("base-files", "base-passwd", "bash", "ca-certificates", "coreutils", "dash", "findutils", "grep", "gzip"),
    *("hostname", "libgomp1", "libstdc++6", "procps", "python3", "python3-venv", "sed", "tar", "util-linux"),
)
ENGINES = ("numpy", "onnxruntime", "ai-edge-litert", "ncnn", "openvino")
"""What its Python has, at the versions of ``constraints.txt``."""

PYTHON = "/opt/engines/bin/python"
"""A virtual environment on the board with `ENGINES`; ``python3`` has none of them."""
WHEELHOUSE = "wheelhouse"
PROCESSOR = "cortex-a76"
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CPUINFO = "".join(
    f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {FEATURES}\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\nCPU revision\t: 1\n\n"
    for core in range(os.cpu_count() or 1)
)
MIDR = "0x00000000414fd0b1"
"""The same as `CPUINFO` in one register, MIDR_EL1: Arm's, variant 4, part 0xd0b, revision 1."""

MAGIC = (
    r":edgepress-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{emulator}:F"
)
"""An ELF file for aarch64, executable or shared, in the words of the kernel's admin-guide/binfmt-misc."""

ENVIRONMENT = {
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "QEMU_CPU": PROCESSOR,
}
_SCHEMA = 1
_SECONDS = 20


@dataclass(frozen=True)
class System:
    """What boards begin as: a folder with ``root``, and a wheelhouse of the engines."""

    folder: Path

    @property
    def root(self) -> Path:
        """Where its packages are unpacked; nobody writes there."""
        return self.folder / "root"

    @property
    def wheelhouse(self) -> Path:
        """Wheels of `ENGINES`, for the board's Python."""
        return self.folder / WHEELHOUSE

    @property
    def packages(self) -> Path:
        """What that Python has, below ``root``."""
        return next((self.root / PYTHON.lstrip("/")).parents[1].glob("lib/python3.*/site-packages"))


@dataclass(frozen=True)
class Board:
    """A board that runs.

    Args:
        system: what it began as.
        folder: what it is made of besides: ``changes`` has every file that is written on it.
        port: of sshd, on 127.0.0.1.
        keeper: the process that holds its namespaces; those of sessions are in the same ones.
    """

    system: System
    folder: Path
    port: int
    keeper: int

    @property
    def url(self) -> str:
        """How it is named: ``ssh://root@127.0.0.1:PORT``, or the name of who runs sshd here in place of root."""
        return f"ssh://{_user()}@127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """With which ``ssh`` is a client that knows this board and has a key for it."""
        return {"PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    @property
    def changes(self) -> Path:
        """The files that were written on it, by their places there."""
        return self.folder / "changes"

    @property
    def files(self) -> Path:
        """All its files, as the board has them, to read and to write from here."""
        return Path(f"/proc/{self.keeper}/root") / (self.folder / "merged").relative_to("/")

    def run(self, *command: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A program on the board, not by sshd, with ``text`` on its stdin: to look at it, or to break it."""
        return subprocess.run([*self.inside, *command], input=text, capture_output=True, check=False)

    @property
    def inside(self) -> tuple[str, ...]:
        """The command that runs another one on the board."""
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        enter = ("nsenter", "--preserve-credentials", "--target", str(self.keeper), "--user", "--mount")
        return (*enter, "chroot", str(self.folder / "merged"), "/usr/bin/env", "-i", "-C", "/root", *variables)

    def processes(self) -> dict[int, str]:
        """Those that run on the board, by number: their command lines, as the emulator sees them."""
        return {pid: line for pid, line in _namesakes(self.keeper) if pid != self.keeper}


def missing() -> str | None:
    """Why no board can be started here, with what to install; None where one can."""
    tools = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "unshare": "util-linux"}
    lacking = [*arm_system.missing(), *(package for tool, package in tools.items() if _tool(tool) is None)]
    if lacking:
        return f"apt-get install {' '.join(dict.fromkeys(lacking))}"
    mounts = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc && test -w /proc/sys/fs/binfmt_misc/register"
    if not arm_system.works(["unshare", "--map-root-user", "--mount", "sh", "-c", mounts]):
        return "needs Linux 6.7 or newer with binfmt_misc and user namespaces that this user may make"
    return None


def system() -> System:
    """The system that boards begin as, made where it is not yet in the user's folder for caches.

    Raises:
        Failed: packages cannot be fetched.
    """
    words = repr((_SCHEMA, PACKAGES, _constraints()))
    folder = cache.folder() / "board" / hashlib.sha256(words.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as name:
                made = System(Path(name) / "system")
                _make(made)
                made.folder.rename(folder)
    return System(folder)


@contextlib.contextmanager
def board(sysfs: Path | None = None, port: int = 0) -> Iterator[Board]:
    """A board, until the end of the block; then nothing of it runs, and what was written on it is gone.

    Args:
        sysfs: a folder that is its ``/sys``; left out, its cores are all that is told there.
        port: of sshd; 0 for any.

    Raises:
        Failed: it did not start.
    """
    base = system()
    with tempfile.TemporaryDirectory(prefix="board-") as name:
        folder = Path(name)
        keeper = _keep(base, folder, sysfs or _sysfs(folder / "sysfs"))
        try:
            number = port or _free_port()
            made = Board(base, folder, number, keeper.pid)
            server = _serve(made)
            try:
                yield made
            finally:
                server.communicate()
        finally:
            for pid, _ in _namesakes(keeper.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            keeper.communicate()


def _make(made: System) -> None:
    made.root.mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):  # as installers of Debian have them: one place each
        (made.root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (made.root / name).symlink_to(f"usr/{name}")
    arm_system.debian(made.root, PACKAGES)
    shell = made.root / "bin/sh"
    if not shell.is_symlink():
        shell.symlink_to("dash")
    (made.root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
    (made.root / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
    (made.root / "etc/hosts").write_text("127.0.0.1 localhost board\n", encoding="utf-8")
    python = arm_system.python_of(made.root).name
    version = python.removeprefix("python")
    environment = made.root / PYTHON.lstrip("/")
    packages = environment.parents[1] / "lib" / python / "site-packages"
    environment.parent.mkdir(parents=True)
    environment.symlink_to(f"/usr/bin/{python}")
    (environment.parents[1] / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}\n", encoding="utf-8")
    # ncnn's wheel asks for much that only its examples use
    wanted = ["--no-deps", *_constraints(ENGINES)]
    arm_system.wheels(["download", "--dest", str(made.wheelhouse), *wanted], version, made.folder)
    rest = ["--constraint", str(ROOT / "constraints.txt"), *(name for name in ENGINES if name != "ncnn")]
    arm_system.wheels(["download", "--dest", str(made.wheelhouse), *rest], version, made.folder)
    local = ["--no-deps", "--no-index", *map(str, sorted(made.wheelhouse.glob("*.whl")))]
    arm_system.wheels(["install", "--target", str(packages), *local], version, made.folder)


def _constraints(names: Sequence[str] = ENGINES) -> tuple[str, ...]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line.partition("==")[0] in names)


def _keep(base: System, folder: Path, sysfs: Path) -> subprocess.Popen[bytes]:
    """The process that holds the namespaces in which the board's files are mounted, once they are."""
    for name in ("changes", "work", "merged"):
        (folder / name).mkdir()
    (folder / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
    overlay = f"lowerdir={base.root},upperdir={folder / 'changes'},workdir={folder / 'work'},userxattr"
    merged = folder / "merged"
    binfmt = MAGIC.format(emulator=arm_system.emulator())
    script = "\n".join((
        "set -e",
        "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc",
        f"printf '%s' {shlex.quote(binfmt)} > /proc/sys/fs/binfmt_misc/register",
        f"mount -t overlay overlay -o {shlex.quote(overlay)} {merged}",
        f"mount --rbind /dev {merged}/dev",
        f"mount --rbind /proc {merged}/proc",
        f"mount --bind {folder / 'cpuinfo'} {merged}/proc/cpuinfo",
        f"mount --rbind {sysfs} {merged}/sys",
        "echo mounted",
        "exec cat",  # until this process ends, however it ends
    ))  # fmt: skip
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert keeper.stdout is not None and keeper.stderr is not None
    if keeper.stdout.readline() != b"mounted\n":
        raise Failed(f"the board's files cannot be mounted: {keeper.stderr.read().decode(errors='replace').strip()}")
    return keeper


def _sysfs(folder: Path) -> Path:
    """Of what ``/sys`` tells, the cores alone: their numbers, their place and their kind.

    The files are those of the kernel's ABI/testing/sysfs-devices-system-cpu; OpenVINO crashes where it finds none.
    """
    cores, count = folder / "devices/system/cpu", os.cpu_count() or 1
    every = {"package_cpus": f"{(1 << count) - 1:x}", "package_cpus_list": f"0-{count - 1}"}
    every |= {"core_siblings": every["package_cpus"], "core_siblings_list": every["package_cpus_list"]}
    files = dict.fromkeys(("possible", "present", "online"), f"0-{count - 1}")
    for core in range(count):
        own = {"core_cpus": f"{1 << core:x}", "core_cpus_list": f"{core}"}
        own |= {"thread_siblings": own["core_cpus"], "thread_siblings_list": own["core_cpus_list"]}
        topology = {**every, **own, "physical_package_id": "0", "core_id": f"{core}"}
        files |= {f"cpu{core}/topology/{name}": value for name, value in topology.items()}
        files[f"cpu{core}/regs/identification/midr_el1"] = MIDR
        files[f"cpu{core}/online"] = "1"
    for name, value in files.items():
        (cores / name).parent.mkdir(parents=True, exist_ok=True)
        (cores / name).write_text(f"{value}\n", encoding="utf-8")
    return folder


def _serve(made: Board) -> subprocess.Popen[bytes]:
    """Its sshd, once it answers."""
    folder = made.folder
    for name in ("host_key", "user_key"):
        arm_system.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], folder)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    _write(folder / "session", f'#!/bin/sh\nexec {shlex.join(made.inside)} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    settings = {
        "Port": made.port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "ForceCommand": folder / "session",
        "PermitRootLogin": "yes",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()), encoding="utf-8")
    _client(made)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # where sshd gives its privileges up, as its service makes it
    with (folder / "sshd.log").open("wb") as log:
        words = [_tool("sshd") or "sshd", "-D", "-e", "-f", str(config)]
        lives = ["sh", "-c", '"$@" & cat; kill $!', "sh", *words]  # no longer than this process
        server = subprocess.Popen(lives, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
    ends = time.monotonic() + _SECONDS
    while server.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", made.port), timeout=1):
            return server
        time.sleep(0.05)
    server.communicate()
    raise Failed(f"sshd did not start: {(folder / 'sshd.log').read_text(encoding='utf-8').strip()[-300:]}")


def _client(made: Board) -> None:
    """What ``ssh`` has to know of the board, in a folder that comes first in PATH; the user's own files stay out."""
    folder = made.folder
    public = (folder / "host_key.pub").read_text(encoding="utf-8")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{made.port} {public}", encoding="utf-8")
    settings = {
        "IdentityFile": folder / "user_key",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
    }
    config = folder / "ssh_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()), encoding="utf-8")
    (folder / "bin").mkdir()
    _write(folder / "bin/ssh", f'#!/bin/sh\nexec {_tool("ssh")} -F {config} "$@"\n')


def _write(script: Path, text: str) -> None:
    script.write_text(text, encoding="utf-8")
    script.chmod(0o755)


def _namesakes(pid: int) -> Iterator[tuple[int, str]]:
    """The processes in the namespace of mounts of this one, itself among them."""
    try:
        own = Path(f"/proc/{pid}/ns/mnt").readlink()
    except OSError:
        return
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "ns/mnt").readlink() == own:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                yield int(folder.name), " ".join(word.decode(errors="replace") for word in words if word)


@functools.cache
def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _user() -> str:
    return re.sub(r"\s", "", subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Start a board and tell of it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sysfs", type=Path, metavar="FOLDER", help="that is its /sys")
    parser.add_argument("--port", type=int, default=0)
    asked = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"no board here: {reason}", file=sys.stderr)
        return 3
    ends = {signal.SIGINT, signal.SIGTERM}
    start = time.monotonic()
    try:
        with board(asked.sysfs and asked.sysfs.resolve(), asked.port) as made:
            print(
                f"{made.url} after {time.monotonic() - start:.1f} s; Python with the engines: {PYTHON}; wheels for it:"
            )
            print(f"{made.system.wheelhouse}\nexport PATH={made.folder / 'bin'}:$PATH", flush=True)
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # now: what it started is not to inherit it
            signal.sigwait(ends)
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
