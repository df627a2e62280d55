#!/usr/bin/python3
"""Sixteen desktops of 1 GB on a host with 5 GB.

Boots one desktop, freezes it, starts clones of it, lets each show its own name on its own screen and
answer a command on its own console, and prints what each was given and what the host pays, all inside
one memory cgroup with a hard limit. Leaves nothing behind, also on Ctrl-C (--keep: leaves the VMs).
"""
import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from coppice_client import ApiError, Client, wait_until  # noqa: E402
from screen_text import read_name  # noqa: E402

LIMIT = "5G"
READY = b"coppice: desktop ready"
DEADLINE_S = 300
MIB = 1 << 20


class Progress:
    """One line a step; on a terminal the running step's seconds are counted."""

    def __init__(self):
        self.begun = time.monotonic()

    @contextlib.contextmanager
    def step(self, text):
        done = threading.Event()
        start = time.monotonic()
        live = sys.stderr.isatty()

        def count():
            while not done.wait(1):
                print(f"\r{text} ... {time.monotonic() - start:.0f} s ", end="", file=sys.stderr, flush=True)

        print(f"{text} ...", end="" if live else "\n", file=sys.stderr, flush=True)
        thread = threading.Thread(target=count, daemon=True)
        if live:
            thread.start()
        try:
            yield
        except BaseException:
            print("" if live else f"  failed: {text}", file=sys.stderr)
            raise
        finally:
            done.set()
        seconds = time.monotonic() - start
        print(f"\r{text}: {seconds:.1f} s   " if live else f"  done in {seconds:.1f} s", file=sys.stderr)


class Demo:
    def __init__(self, options):
        self.options = options
        self.progress = Progress()
        self.out = Path(options.out)
        self.dir = Path(tempfile.mkdtemp(prefix="coppice-demo-"))
        self.daemon = None
        self.api = Client(self.dir)
        self.report = {}

    def start_daemon(self):
        read_end, write_end = os.pipe()
        with open(self.out / "coppiced.log", "wb") as log:
            self.daemon = subprocess.Popen(
                [ROOT / "build/src/daemon/coppiced", "--dir", self.dir, "--ready-fd", str(write_end),
                 "--memory-limit", LIMIT],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write_end], start_new_session=True)
        os.close(write_end)
        with os.fdopen(read_end) as ready:
            answer = ready.read()
        if answer != "ready\n":
            raise SystemExit(f"the daemon did not start: {answer}")

    def boot(self):
        image = Path(self.options.images).resolve() / "desktop"
        manifest = json.loads((image / "image.json").read_text())
        self.api.api("POST", "/v1/vms", {
            "name": "desktop", "disks": [{"path": str(image / manifest["disk"]), "format": manifest["disk_format"]}],
            "memory_bytes": manifest["memory_bytes"], "cpus": manifest["cpus"], "display": manifest["display"],
            "network": manifest["network"]})
        with self.api.console("desktop") as console:
            console.ws.settimeout(DEADLINE_S)
            console.until(READY)
        # What starts after the desktop has settled by then; clones should not repeat it.
        time.sleep(self.options.settle)

    def freeze(self):
        answer = self.api.api("POST", "/v1/vms/desktop/freeze", {"template": "desk"})
        self.api.api("DELETE", "/v1/vms/desktop?force=true")
        self.report["freeze_ms"] = answer["freeze"]["window_ms"]
        self.report["freeze"] = answer["freeze"]
        self.report["accel"] = answer["template"]["accel"]
        self.template = answer["template"]

    def answer_of(self, name, start, results):
        """Waits until the clone runs, has it show its name, and notes when its answer came."""
        def running():
            with contextlib.suppress(ApiError):
                return self.api.api("GET", f"/v1/vms/{name}")["state"] == "running"

        wait_until(running, f"{name} to run", DEADLINE_S)
        with self.api.console(name) as console:
            console.ws.settimeout(DEADLINE_S)
            output = console.sh(f"coppice-show {name}; hostname")
        results[name] = ((time.monotonic() - start) * 1000, output.strip().splitlines()[-1:])

    def clone(self):
        names = [f"desk-{i}" for i in range(1, self.options.clones + 1)]
        results, failure = {}, []
        start = time.monotonic()

        def request():
            try:
                self.cloned = self.api.api("POST", "/v1/templates/desk/clone", {"names": names})
            except Exception as error:
                failure.append(error)

        requester = threading.Thread(target=request)
        requester.start()
        askers = [threading.Thread(target=self.answer_of, args=(name, start, results), daemon=True) for name in names]
        for asker in askers:
            asker.start()
        requester.join()
        if failure:
            raise failure[0]
        for asker in askers:
            asker.join(DEADLINE_S)
        wrong = [name for name in names if results.get(name, (0, None))[1] != [name]]
        if wrong:
            raise SystemExit(f"no proper answer from {', '.join(wrong)}")
        running = {vm["name"]: vm["start"]["total_ms"] for vm in self.cloned["vms"]}
        self.names = names
        self.report["clones"] = len(names)
        self.report["clone_ms"] = [round(running[name], 1) for name in names]
        self.report["answer_ms"] = [round(results[name][0], 1) for name in names]
        self.report["all_running_ms"] = round(self.cloned["all_ms"], 1)
        self.report["all_ready_ms"] = round(max(self.report["answer_ms"]), 1)

    def screens(self):
        """Every clone's screen; each must show another picture, and its own name to a reader of text."""
        pictures = {}
        for name in self.names:
            status, kind, data = self.api.request("GET", f"/v1/vms/{name}/screenshot")
            if status != 200:
                raise SystemExit(f"no screen of {name}: {data}")
            pictures[name] = Image.open(io.BytesIO(data)).convert("RGB")
        wrong = [name for name, picture in pictures.items() if read_name(picture) != name]
        if wrong:
            raise SystemExit(f"these screens do not show their names: {', '.join(wrong)}")
        columns, width, height, gap = 4, 480, 360, 12
        rows = -(-len(pictures) // columns)
        sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "#20262e")
        for i, picture in enumerate(pictures.values()):
            small = picture.resize((width, height), Image.LANCZOS)
            sheet.paste(small, (gap + i % columns * (width + gap), gap + i // columns * (height + gap)))
        sheet.save(self.out / "contact-sheet.png")

    def stats(self):
        return self.api.api("GET", "/v1/stats")

    def measure(self, key):
        stats = self.stats()
        self.report[key] = {**stats["total"], "host": stats["host"]}
        return stats

    def read_disks(self):
        """Each clone reads 200 MB of its disk."""
        def read(name):
            with self.api.console(name) as console:
                console.ws.settimeout(DEADLINE_S * 3)
                outputs[name] = console.sh("dd if=/dev/vda of=/dev/null bs=1M count=200 2>&1 | tail -n 1")

        outputs = {}
        threads = [threading.Thread(target=read, args=(name,), daemon=True) for name in self.names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S * 3)
        if sum("209715200" in out for out in outputs.values()) != len(self.names):
            raise SystemExit(f"not every clone read its disk: {outputs}")

    def run(self):
        step = self.progress.step
        self.out.mkdir(parents=True, exist_ok=True)
        with step(f"starting the daemon in a memory cgroup of {LIMIT}"):
            self.start_daemon()
        with step("booting one desktop of 1 GB"):
            self.boot()
        with step("freezing it"):
            self.freeze()
        with step(f"starting {self.options.clones} clones, asking each for its name"):
            self.clone()
        with step("taking and reading their screens"):
            self.screens()
        stats = self.measure("at_once")
        if self.options.more:
            with step("60 s idle"):
                time.sleep(60)
            stats = self.measure("after_60_s_idle")
            with step("each clone reads 200 MB of its disk"):
                self.read_disks()
            self.measure("after_reading_200_mb_each")
        self.report["given_bytes"] = stats["total"]["given_bytes"]
        self.report["paid_bytes"] = stats["total"]["paid_bytes"]
        (self.out / "report.json").write_text(json.dumps(self.report, indent=1) + "\n")
        self.table(stats)

    def table(self, stats):
        report, total, host = self.report, stats["total"], stats["host"]
        line = "{:<10} {:>10} {:>10} {:>10} {:>10} {:>11} {:>11}"
        print()
        print(line.format("VM", "given", "private", "shared", "QEMU", "running", "answered"))
        order = {name: i for i, name in enumerate(self.names)}
        for vm in sorted(stats["vms"], key=lambda vm: order[vm["name"]]):
            memory, i = vm["memory"], order[vm["name"]]
            print(line.format(vm["name"], *(mib(memory[key]) for key in (
                "given_bytes", "private_bytes", "shared_bytes", "vmm_bytes")),
                f"{report['clone_ms'][i]:.0f} ms", f"{report['answer_ms'][i]:.0f} ms"))
        print()
        rows = [
            ("given", mib(total["given_bytes"]), f"{len(self.names)} desktops"),
            ("paid", mib(total["paid_bytes"]), f"{total['source']}, limit {mib(host['limit_bytes'])}"),
            ("  clones' own pages", mib(total["private_bytes"]), ""),
            ("  template, one copy", mib(total["shared_bytes"]), ""),
            ("  QEMU processes", mib(total["vmm_bytes"]), ""),
            ("  page cache of disks", mib(host["file_bytes"]), "given back when memory is short"),
            ("  kernel, daemon", mib(total["paid_bytes"] - total["private_bytes"] - total["shared_bytes"]
                                     - total["vmm_bytes"] - host["file_bytes"]), ""),
            ("given / paid", f"{total['ratio']:.1f}", ""),
            ("guest stood still", f"{report['freeze_ms']:.0f} ms", "to be frozen"),
            ("all running", f"{report['all_running_ms']:.0f} ms", "first {:.0f}, median {:.0f}, last {:.0f} ms".format(
                min(report["clone_ms"]), statistics.median(report["clone_ms"]), max(report["clone_ms"]))),
            ("all answered", f"{report['all_ready_ms']:.0f} ms", "first {:.0f}, median {:.0f}, last {:.0f} ms".format(
                min(report["answer_ms"]), statistics.median(report["answer_ms"]), max(report["answer_ms"]))),
            ("accelerator", report["accel"], ""),
        ]
        for key, text in (("after_60_s_idle", "60 s idle"), ("after_reading_200_mb_each", "200 MB read by each")):
            if key in report:
                rows.append((f"paid, {text}", mib(report[key]["paid_bytes"]),
                             f"own pages {mib(report[key]['private_bytes'])}, page cache "
                             f"{mib(report[key]['host']['file_bytes'])}"))
        for name, value, note in rows:
            print(f"{name:<26} {value:>10}   {note}".rstrip())
        print(f"\npicture: {shown(self.out / 'contact-sheet.png')}\nfigures: {shown(self.out / 'report.json')}")

    def keep(self):
        coppice = shown(ROOT / "build/src/cli/coppice")
        print(f"\nThe VMs go on. To look at them:\n  export COPPICE_DIR={self.dir}\n  {coppice} ps\n"
              f"  {coppice} vnc desk-1 --proxy 5901      # then: vncviewer localhost:5901\n"
              f"  {coppice} console desk-1\nTo end them:\n  {coppice} rm --force --all && "
              f"{coppice} template rm desk && kill {self.daemon.pid}; rm -rf {self.dir}")

    def clean(self):
        """Everything that was started goes, in whatever state it is."""
        if self.daemon:
            with contextlib.suppress(Exception):
                for vm in self.api.api("GET", "/v1/vms")["vms"]:
                    with contextlib.suppress(ApiError):
                        self.api.api("DELETE", f"/v1/vms/{vm['name']}?force=true")
                self.api.api("DELETE", "/v1/templates/desk")
            self.daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(30)
            self.daemon.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def mib(size):
    return f"{size / MIB:,.0f} MiB"


def shown(path):
    """As short as the user would type it."""
    with contextlib.suppress(ValueError):
        return str(Path(path).resolve().relative_to(Path.cwd()))
    return str(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default=str(ROOT / ".cache/images"), help="folder of built images")
    parser.add_argument("--out", default=str(ROOT / "build/demo"), help="folder for picture and report")
    parser.add_argument("--clones", type=int, default=16)
    parser.add_argument("--settle", type=float, default=5, help="seconds between ready and freeze")
    parser.add_argument("--more", action="store_true", help="also after 60 s idle, and after disk reads")
    parser.add_argument("--keep", action="store_true", help="leave the VMs running")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root: the memory cgroup needs it")

    def end(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    demo = Demo(options)
    done = False
    try:
        demo.run()
        done = True
        if options.keep:
            demo.keep()
    except KeyboardInterrupt:
        print("\nending", file=sys.stderr)
        return 130
    finally:
        if not (done and options.keep):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # cleaning up is not interrupted
            demo.clean()
    return 0


if __name__ == "__main__":
    sys.exit(main())
