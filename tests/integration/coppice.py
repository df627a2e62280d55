"""A daemon of its own for a test, and what tests do with it.

Everything goes over the API as a user's program would. Waiting is on events or bounded polling of a
state, never on a time that decides a result.
"""
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from coppice_client import DEADLINE_S, ApiError, Client, Console, wait_until  # noqa: E402,F401

BUILD = Path(os.environ.get("COPPICE_BUILD", "build")).absolute()
ASAN = Path(os.environ.get("COPPICE_BUILD_ASAN", BUILD)).absolute()
IMAGES = Path(os.environ.get("COPPICE_IMAGES", ".cache/images")).absolute()
ENGINE = os.environ.get("COPPICE_ENGINE", "auto")  # for a run of all tests on one engine
PROMPT = b"coppice# "


class Daemon(Client):
    """coppiced on a folder; start, kill and start again. Options are its command line's."""

    def __init__(self, directory, *options, build=ASAN, ram_dir=None, prefix=()):
        self.dir = Path(directory)
        self.options = options
        self.build = build
        super().__init__(self.dir)
        self.process = None
        self.log = self.dir.with_suffix(".log")
        self.ram_dir_given = ram_dir
        self.prefix = prefix  # words of a command that runs the daemon, such as setpriv's

    def start(self):
        # The shim goes into a QEMU without sanitizers, so it is the plain build's.
        read_end, write_end = os.pipe()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, self.build / "src/daemon/coppiced", "--dir", self.dir, "--ready-fd", str(write_end),
                 "--shim", BUILD / "src/shim/libcoppice-shim.so", "--engine", ENGINE, *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write_end])
        os.close(write_end)
        with os.fdopen(read_end) as ready:
            answer = ready.read()
        assert answer == "ready\n", f"coppiced did not start: {answer}\n{self.log.read_text()}"
        return self

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        self.process.wait(60)

    def restart(self, sig=signal.SIGKILL):
        self.kill(sig)
        return self.start()

    # What tests do most.

    def run_minimal(self, name="m", memory_mib=128, **more):
        return self.api("POST", "/v1/vms", dict(minimal_machine(memory_mib), name=name, **more))

    def freeze(self, vm, template, **more):
        return self.api("POST", f"/v1/vms/{vm}/freeze", dict(template=template, **more))

    def clone(self, template, count=1, **more):
        answer = self.api("POST", f"/v1/templates/{template}/clone", dict(count=count, **more))
        return [vm["name"] for vm in answer["vms"]]

    def vm(self, name):
        return self.api("GET", f"/v1/vms/{name}")

    def vms(self):
        return {vm["name"]: vm for vm in self.api("GET", "/v1/vms")["vms"]}

    def templates(self):
        return {t["name"]: t for t in self.api("GET", "/v1/templates")["templates"]}

    def wait_state(self, name, *states):
        return wait_until(lambda: (vm := self.vm(name))["state"] in states and vm,
                          f"VM {name} to be {' or '.join(states)}")

    def sh(self, name, command):
        """Runs a shell command on a minimal guest's console; its output."""
        with self.console(name) as console:
            return console.sh(command)

    def ready(self, name):
        """Waits until a booting minimal guest's shell answers."""
        with self.console(name) as console:
            console.until(b"coppice: minimal ready")
            console.until(PROMPT)

    def ready_vm(self, name="m", **more):
        vm = self.run_minimal(name, **more)
        self.ready(name)
        return vm

    def files(self):
        """Everything below the folder but logs and sockets, and RAM images, by relative name."""
        ram_dir = self.ram_dir()
        found = {str(p.relative_to(self.dir)) for p in self.dir.rglob("*")
                 if p.is_file() and p.suffix != ".log"}
        # The pager's are there while it runs.
        return (found - {"lock", "pager.lock"}) | {f"ram:{p.name}" for p in ram_dir.iterdir() if p.name != "store"}

    def ram_dir(self):
        if self.ram_dir_given:
            return self.ram_dir_given
        digest = hashlib.sha256(str(self.dir).encode()).hexdigest()[:16]
        return Path(f"/dev/shm/coppice-{os.geteuid()}-{digest}")

    def close(self):
        """Removes every VM and template, ends the daemon, and holds it to leave nothing behind."""
        if self.process.poll() is not None:
            self.start()
        for name in self.vms():
            with contextlib.suppress(ApiError):
                self.api("DELETE", f"/v1/vms/{name}?force=true")
        for name in self.templates():
            self.api("DELETE", f"/v1/templates/{name}")
        left = self.files()
        pids = qemus_of(self.dir)
        cgroup = self.api("GET", "/v1/stats")["host"]["cgroup"]
        self.kill(signal.SIGTERM)
        assert self.process.returncode == 0, self.log.read_text()
        text = self.log.read_text()
        assert not left, f"files left behind: {left}\n{text}"
        assert not pids, f"processes left behind: {pids}\n{text}"
        assert not cgroup or not os.path.exists(cgroup), f"cgroup left behind: {cgroup}"
        assert not list(self.dir.glob("pager.sock")) and not list(self.ram_dir().glob("store")), "the pager was left behind"
        for surprise in ("CRITICAL", "Sanitizer", "runtime error", "assertion"):
            assert surprise not in text, text
        assert self.ram_dir_given or not self.ram_dir().exists(), "RAM folder left behind"


def minimal_machine(memory_mib=128):
    image = IMAGES / "minimal"
    manifest = json.loads((image / "image.json").read_text())
    return {"kernel": str(image / manifest["kernel"]), "initrd": str(image / manifest["initrd"]),
            "append": manifest["append"], "memory_bytes": memory_mib << 20, "display": "none",
            "network": "none", "accel": "tcg"}


def extents(path):
    """Where a sparse file has something."""
    with open(path, "rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            yield at, end
            at = end


def expect_image_untouched(daemon, template):
    """What of a template is in RAM is what its file has."""
    folder = daemon.dir / "templates" / template
    image = daemon.ram_dir() / json.loads((folder / "template.json").read_text())["ram_id"]
    with open(image, "rb") as memory_file, open(folder / "ram", "rb") as file:
        for at, end in extents(image):
            assert os.pread(memory_file.fileno(), end - at, at) == os.pread(file.fileno(), end - at, at), hex(at)


def qemus_of(directory):
    """Process ids of QEMUs whose working folder is below the directory."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "cwd").startswith(f"{directory}/vms/"):
                    pids.append(int(entry.name))
    return pids
