"""Runs the image of the Dockerfile as Docker would, with Podman.

No registry is needed: debootstrap makes the base image, with the Python of the one that
the Dockerfile names.
"""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT, Server, until
from tests.services import children, program

DEBIAN, MIRROR = "trixie", "http://deb.debian.org/debian"  # its Python is 3.13
PACKAGES = "ca-certificates,dbus,python3-venv,systemd"
BASE = re.search("^FROM (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "microblog-api"
IMAGE = "localhost/microblog-api"
# No limits of resources: those of Podman can be above those that this account may set.
CONF = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def archive_of_base():
    """Return the path of a tar archive: Debian with Python, made once."""
    archive = CACHE / f"{DEBIAN},{PACKAGES}.tar"
    if archive.exists():
        return archive
    debootstrap = program("debootstrap")
    folder = CACHE / f"{DEBIAN}-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        options = ["--variant=minbase", f"--include={PACKAGES}"]
        made = subprocess.run(
            [debootstrap, *options, DEBIAN, folder, MIRROR],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            pytest.skip(f"debootstrap cannot make the base: {made.stdout[-500:]}{made.stderr}")
        (folder / "usr" / "bin" / "python").symlink_to("python3")
        draft = archive.with_suffix(f".{os.getpid()}")
        subprocess.run(["tar", "-C", folder, "-cf", draft, "."], check=True)
        draft.replace(archive)
    finally:
        shutil.rmtree(folder)
    return archive


def pip_options(folder):
    """Return options of a build in which pip uses the indexes that it uses here."""
    listed = subprocess.run(
        ["python", "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line.partition("=") for line in listed.splitlines()]
    # Those of the environment, which begin with a colon, win over files.
    lines.sort(key=lambda line: line[0].startswith(":"))
    options = {name.rpartition(".")[2]: ast.literal_eval(value) for name, _, value in lines}
    conf = folder / "pip.conf"
    conf.write_text("[global]\n" + "".join(f"{name} = {options[name]}\n" for name in options))
    volumes = [f"{conf}:/etc/pip.conf:ro"]
    for value in options.values():
        # An index in a folder has its files next to it.
        paths = {str(Path(path).parent) for path in re.findall(r"file://(/\S+)", value)}
        paths |= set(re.findall(r"(?:^|\s)(/\S+)", value))
        volumes += [f"{path}:{path}:ro" for path in sorted(paths) if Path(path).exists()]
    return [f"--volume={volume}" for volume in volumes]


class Podman:
    """Podman with a storage of its own.

    Its mounts and its control groups are in namespaces that end with it.
    """

    def __init__(self, folder):
        if os.geteuid() != 0:
            pytest.skip("only root can make a base image")
        self.folder = folder
        self.program = program("podman")
        unshare = program("unshare")
        (folder / "containers.conf").write_text(CONF)
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        found = [Path(path) for _, path, kind, *_ in mounts if kind == "cgroup2"]
        if not found:
            pytest.skip("no control groups of version 2")
        own = re.search("^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)[1]
        self.cgroup = found[0] / own / f"microblog-api-{os.getpid()}"
        try:
            self.cgroup.mkdir()
        except OSError as error:
            pytest.skip(f"no control groups for containers here: {error}")
        # A /dev/null of its own: Podman changes its owner to the user of a container.
        (folder / "dev").mkdir()
        mount = f"""
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            mount -t tmpfs tmpfs {folder}/dev
            mknod -m 666 {folder}/dev/null c 1 3
            mount --bind {folder}/dev/null /dev/null
            echo ready
            exec sleep infinity
        """
        self.process = subprocess.Popen(
            [
                *self.in_cgroup(),
                *(unshare, "--mount", "--cgroup", "--propagation=private", "sh", "-ec", mount),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        line = self.process.stdout.readline()
        if line != "ready\n":
            self.process.wait()
            self.process.stdout.close()
            pytest.skip(f"no namespaces for containers here: {line}")

    def in_cgroup(self):
        """Return what stands before a command that is to run in the control group."""
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', self.cgroup / "cgroup.procs")

    def command(self, *words):
        return [
            *("nsenter", f"--target={self.process.pid}", "--mount", "--cgroup"),
            *("env", f"CONTAINERS_CONF={self.folder}/containers.conf", self.program),
            *(f"--root={self.folder}/storage", f"--runroot={self.folder}/run"),
            *(f"--tmpdir={self.folder}/tmp", *map(str, words)),
        ]

    def __call__(self, *words, check=True):
        """Run Podman; return the finished process."""
        process = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        assert not check or process.returncode == 0, f"{words}: {process.stdout}{process.stderr}"
        return process

    def build(self):
        """Build the image of the Dockerfile."""
        base = f"docker.io/library/{BASE}"
        self("import", archive_of_base(), base)
        tried = self("run", "--rm", base, "true", check=False)
        if tried.returncode != 0:
            pytest.skip(f"no container runs here: {tried.stderr}")
        options = ["--isolation=chroot", "--pull=never", "--format=docker", f"--tag={IMAGE}"]
        self("build", *options, *pip_options(self.folder), ROOT)

    def server(self, *options, command=(), **settings):
        """Return the server of the image, not yet started, on a free port."""
        settings = {"PORT": "0", **settings}
        options = ("--no-healthcheck", *options)  # Podman leaves its timer to systemd
        environment = [f"--env={name}={value}" for name, value in settings.items()]
        return Server(command=self.command("run", "--rm", *options, *environment, IMAGE, *command))

    def close(self):
        self("rm", "--all", "--force", "--time=0")
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        until(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text())
        for folder, _, _ in os.walk(self.cgroup, topdown=False):
            Path(folder).rmdir()


class Machine:
    """A machine that has booted systemd, with the files of the image and no network.

    Args:
        podman: has built the image.
    """

    BOOT = """
        cd "$1" && mount --bind . . && cd "$1"
        mount -t proc proc proc
        mount -t sysfs -o ro sysfs sys
        mount -t cgroup2 cgroup2 sys/fs/cgroup
        for folder in dev run tmp; do mount -t tmpfs tmpfs $folder; done
        for name in null zero full random urandom tty; do
            touch dev/$name
            mount --bind /dev/$name dev/$name
        done
        mkdir dev/shm dev/pts
        mount -t tmpfs tmpfs dev/shm
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        ln -s pts/ptmx dev/ptmx
        ln -s /proc/self/fd dev/fd
        pivot_root . mnt
        umount -l /mnt
        mount --make-rshared /  # as systemd does itself, except in a container
        exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd --unit=basic.target
    """

    def __init__(self, podman):
        name = podman("create", "--no-healthcheck", IMAGE).stdout.strip()
        root = podman("mount", name).stdout.strip()
        namespaces = ["--mount", "--cgroup", "--pid", "--net", "--propagation=private"]
        self.process = subprocess.Popen(
            [
                *podman.in_cgroup(),
                *("nsenter", f"--target={podman.process.pid}", "--mount"),
                *("unshare", *namespaces, "--fork", "--kill-child"),
                *("sh", "-ec", self.BOOT, "-", root),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: children(self.process.pid))
        (self.pid, *_) = children(self.process.pid)
        state = ("systemctl", "is-system-running")
        # "degraded": a container loads no modules of the kernel.
        until(lambda: self(*state, check=False).stdout in {"running\n", "degraded\n"})

    def __call__(self, *words, check=True):
        """Run a command on the machine, as root; return the finished process."""
        namespaces = ["--mount", "--cgroup", "--pid", "--net"]
        process = subprocess.run(
            ["nsenter", f"--target={self.pid}", *namespaces, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or process.returncode == 0, f"{words}: {process.stdout}{process.stderr}"
        return process

    def close(self):
        self.process.kill()
        self.process.wait()
