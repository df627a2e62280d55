#!/usr/bin/python3
"""From clone to ready: one, sixteen and sixty-four clones, beside the same without an agent; and run-in.

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

from coppice import BUILD, Daemon  # noqa: E402


def spread(values):
    return {"median": round(statistics.median(values), 1), "min": round(min(values), 1), "max": round(max(values), 1)}


def show(name, values):
    s = spread(values)
    print(f"{name:<46} {s['median']:8.1f} ({s['min']:.1f}–{s['max']:.1f}) ms", flush=True)
    return s


def remove(daemon, answer):
    for vm in answer["vms"]:
        daemon.api("DELETE", f"/v1/vms/{vm['name']}?force=true")


def clones(daemon, results, counts, rounds):
    for count in counts:
        for template, wait in (("with", True), ("without", False)):
            first, middle, last, ran = [], [], [], []
            for _ in range(max(1, rounds if count < 64 else rounds // 3)):
                answer = daemon.api("POST", f"/v1/templates/{template}/clone", {"count": count, "wait": wait})
                key = (lambda vm: vm["agent"]["ready_ms"]) if wait else (lambda vm: vm["start"]["total_ms"])
                times = sorted(key(vm) for vm in answer["vms"])
                first.append(times[0])
                middle.append(statistics.median(times))
                last.append(times[-1])
                ran.append(answer["all_ms"])
                remove(daemon, answer)
            word = "ready" if wait else "running, no agent"
            one = results.setdefault(f"{count} {word}", {})
            one["first"] = show(f"{count} clones, {word}: first", first)
            if count > 1:
                one["median"] = show(f"{count} clones, {word}: median", middle)
                one["last"] = show(f"{count} clones, {word}: last", last)
            if wait:
                one["all_running"] = show(f"{count} clones, all running", ran)


def steps(daemon, results):
    answer = daemon.api("POST", "/v1/templates/with/clone", {"count": 1})
    vm = answer["vms"][0]
    results["steps"] = {s["name"]: s["ms"] for s in vm["agent"]["steps"]}
    print("steps of one: " + ", ".join(f"{s['name']} {s['ms']:.1f} ms" for s in vm["agent"]["steps"]))
    remove(daemon, answer)


def run_in(daemon, results, rounds):
    whole, ready, run = [], [], []
    for _ in range(rounds):
        start = time.monotonic()
        done = subprocess.run([BUILD / "src/cli/coppice", "--dir", daemon.dir, "--json", "run-in", "with", "--", "true"],
                              capture_output=True, check=True)
        whole.append((time.monotonic() - start) * 1000)
        result = json.loads(done.stdout)["result"]
        ready.append(result["ready_ms"])
        run.append(result["run_ms"])
    results["run_in"] = {"whole": show("run-in -- true", whole), "ready": show("  until the clone was ready", ready),
                         "run": show("  the command", run),
                         "client": show("  the client", [w - a - b for w, a, b in zip(whole, ready, run)])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--counts", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--out", default=str(ROOT / "build/bench/agent.json"))
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="coppice-bench-") as folder:
        daemon = Daemon(Path(folder) / "d", build=BUILD).start()
        try:
            daemon.agent_vm("m")
            daemon.freeze("m", "with")
            daemon.remove_agent("m")  # the same guest, but that nobody is told and nobody waits
            daemon.freeze("m", "without")
            daemon.api("DELETE", "/v1/vms/m?force=true")
            steps(daemon, results)
            clones(daemon, results, options.counts, options.rounds)
            run_in(daemon, results, 50)
        finally:
            daemon.close()
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
