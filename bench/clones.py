#!/usr/bin/python3
"""Where a clone's time goes: one alone, and sixteen at once, by the number started side by side.

Times vary with what else the machine does: medians over rounds, with the extremes beside them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("COPPICE_BUILD", str(ROOT / "build"))
os.environ.setdefault("COPPICE_IMAGES", str(ROOT / ".cache/images"))
sys.path.insert(0, str(ROOT / "tests/integration"))

from coppice import BUILD, IMAGES, Daemon, minimal_machine  # noqa: E402

PARTS = ("spawn_ms", "qmp_ms", "load_ms", "total_ms")


def spread(values):
    return {"median": round(statistics.median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}


def text(values):
    s = spread(values)
    return f"{s['median']:7.1f} ({s['min']:.1f}–{s['max']:.1f})"


def boot(daemon, image):
    if image == "minimal":
        daemon.api("POST", "/v1/vms", dict(minimal_machine(), name="m", display="vga", network="user"))
        daemon.ready("m")
    else:
        manifest = json.loads((IMAGES / image / "image.json").read_text())
        daemon.api("POST", "/v1/vms", {
            "name": "m", "disks": [{"path": str(IMAGES / image / manifest["disk"])}],
            "memory_bytes": manifest["memory_bytes"], "display": "vga", "accel": "tcg"})
        with daemon.console("m") as console:
            console.ws.settimeout(400)
            console.until(b"desktop ready")
    return [daemon.freeze("m", f"t{i}")["freeze"] for i in range(5)]


def round_of(daemon, count):
    answer = daemon.api("POST", "/v1/templates/t0/clone", {"count": count})
    for vm in answer["vms"]:
        daemon.api("DELETE", f"/v1/vms/{vm['name']}?force=true")
    return answer


def start_alone(rounds):
    """QEMU's own part: from exec to the end of a QEMU that does nothing."""
    values = []
    for _ in range(rounds):
        start = time.monotonic()
        subprocess.run(["qemu-system-x86_64", "--version"], stdout=subprocess.DEVNULL, check=True)
        values.append((time.monotonic() - start) * 1000)
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="desktop", choices=["desktop", "minimal"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(ROOT / "build/bench/clones.json"))
    options = parser.parse_args()
    results = {"image": options.image, "freezes": [], "one": {}, "sixteen": {}}
    results["qemu_version_ms"] = spread(start_alone(10))
    print(f"qemu-system-x86_64 --version     {text(start_alone(10))} ms: loading and linking alone")
    for workers in (1, 2, 4, 8, 16):
        with tempfile.TemporaryDirectory(prefix="coppice-bench-") as folder:
            daemon = Daemon(Path(folder) / "d", "--clone-workers", str(workers), build=BUILD).start()
            try:
                freezes = boot(daemon, options.image)
                daemon.api("DELETE", "/v1/vms/m?force=true")
                if workers == 1:
                    results["freezes"] = freezes
                    print(f"freeze: stood still               {text([f['window_ms'] for f in freezes])} ms")
                    ones = [round_of(daemon, 1)["vms"][0]["start"] for _ in range(4 * options.rounds)]
                    for part in PARTS:
                        results["one"][part] = spread([one[part] for one in ones])
                        print(f"one clone, {part:<9}             {text([one[part] for one in ones])} ms")
                rounds = [round_of(daemon, 16)["all_ms"] for _ in range(options.rounds)]
                results["sixteen"][workers] = spread(rounds)
                print(f"16 clones, {workers} side by side          {text(rounds)} ms")
            finally:
                daemon.close()
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
