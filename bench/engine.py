#!/usr/bin/python3
"""The paging engine in real VMs, beside --engine kernel in the same run.

clone  time from the request until clones run, one and 16, with the template in memory and without
jobs   what a VM that fits in RAM pays for it: the same jobs in a clone of each, taking turns
touch  a guest that reads memory which was evicted, nanoseconds a page
idle   what an idle clone's private pages take once they are evicted, everything counted

Times vary with what else the machine does: medians, with the extremes beside them, and CPU time of QEMU and pager
where a ratio matters. KVM too where there is one.
"""
import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("COPPICE_BUILD", str(ROOT / "build"))
os.environ.setdefault("COPPICE_IMAGES", str(ROOT / ".cache/images"))
sys.path.insert(0, str(ROOT / "tests/integration"))

from coppice import BUILD, IMAGES, Daemon, minimal_machine  # noqa: E402

ENGINES = ("pager", "kernel")
PARTS = ("clone", "first", "jobs", "touch", "idle")
TOUCH_MIB = 32

# Each about a second; none needs more than half of the guest's memory. What they touch they touched before.
JOBS = {
    "cpu": "i=0; while [ $i -lt 80000 ]; do i=$((i + 1)); done",
    "memory": "for i in 1 2 3 4 5 6 7 8 9 10; do dd if=/tmp/a of=/tmp/b bs=64k conv=notrunc 2>/dev/null; done; "
              "memtool check; memtool check; memtool check",
    "fork": "i=0; while [ $i -lt 220 ]; do /bin/busybox true; (:); i=$((i + 1)); done",
}
PREPARE = "memtool fill 16 1; dd if=/dev/urandom of=/tmp/a bs=1M count=16 2>/dev/null; cp /tmp/a /tmp/b"
FRESH = "memtool fill 40 2"  # on a clone that has touched nothing yet


def spread(values, digits=1):
    return {"median": round(statistics.median(values), digits), "min": round(min(values), digits),
            "max": round(max(values), digits)}


def text(values, digits=1):
    s = spread(values, digits)
    return f"{s['median']} ({s['min']}–{s['max']})"


@contextlib.contextmanager
def daemon(engine, *options):
    with tempfile.TemporaryDirectory(prefix="coppice-bench-") as folder:
        d = Daemon(Path(folder) / engine, "--engine", engine, *options, build=BUILD).start()
        try:
            yield d
        finally:
            d.close()


@contextlib.contextmanager
def both(*options):
    with daemon("pager", *options) as pager, daemon("kernel", *options) as kernel:
        yield {"pager": pager, "kernel": kernel}


def boot(d, image, accel="tcg", append=""):
    """A template t of a booted VM; the VM is gone."""
    if image == "minimal":
        machine = minimal_machine()
        d.api("POST", "/v1/vms", dict(machine, name="m", accel=accel, append=machine["append"] + append))
        d.ready("m")
    else:
        manifest = json.loads((IMAGES / image / "image.json").read_text())
        d.api("POST", "/v1/vms", {
            "name": "m", "disks": [{"path": str(IMAGES / image / manifest["disk"])}],
            "memory_bytes": manifest["memory_bytes"], "display": "vga", "accel": accel})
        with d.console("m") as console:
            console.ws.settimeout(600)
            console.until(b"desktop ready")
    d.freeze("m", "t")
    d.api("DELETE", "/v1/vms/m?force=true")


def remove(d, names):
    for name in names:
        d.api("DELETE", f"/v1/vms/{name}?force=true")


def forget_template(d, touched_first=True):
    """As after the host's restart: nothing of the template is in memory, nor its file in the page cache.
    touched_first: the record of what clones touched first stays."""
    d.kill(signal.SIGTERM)
    if not touched_first:
        (d.dir / "templates/t/ram.first").write_bytes(b"")
    for image in d.ram_dir().iterdir():
        image.unlink()
    os.sync()
    for file in (d.dir / "templates/t").iterdir():
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    d.start()


def clone_once(d, count):
    """Milliseconds, and bytes of the template that came into memory for it."""
    def template():
        return d.api("GET", "/v1/stats")["templates"][0]
    before = template()
    start = time.monotonic()
    answer = d.api("POST", "/v1/templates/t/clone", {"count": count})
    ms = (time.monotonic() - start) * 1000
    after = template()
    remove(d, [vm["name"] for vm in answer["vms"]])
    return ms, max(after["loaded_bytes"] - before["loaded_bytes"],
                   after["resident_bytes"] - before["resident_bytes"])


def bench_clone(options):
    results = {"image": options.image}
    with both() as daemons:
        for d in daemons.values():
            boot(d, options.image)
        print(f"clone: {options.image}; warm: its template in memory, cold: on disk alone")
        for cold in (False, True):
            for count in (1, 16):
                ms = {e: [] for e in ENGINES}
                read = {e: [] for e in ENGINES}
                for _ in range(options.rounds * (2 if count == 1 and not cold else 1)):
                    for engine, d in daemons.items():
                        if cold:
                            forget_template(d)
                        got = clone_once(d, count)
                        ms[engine].append(got[0])
                        read[engine].append(got[1] / 2**20)
                key = f"{'cold' if cold else 'warm'}_{count}"
                ratio = statistics.median(ms["pager"]) / statistics.median(ms["kernel"])
                results[key] = {"ratio": round(ratio, 3)}
                for engine in ENGINES:
                    results[key][engine] = {"ms": spread(ms[engine]), "template_read_mib": spread(read[engine])}
                    print(f"  {key:<8} {engine:<6} {text(ms[engine]):>26} ms, read {text(read[engine])} MiB")
                print(f"  {key:<8} pager / kernel {ratio:.3f}")
    return results


def bench_first(options):
    """What the record of pages that clones touch first is worth: from clone to the first answer on the
    console, the template on disk alone."""
    results = {"image": options.image}
    with daemon("pager") as d:
        boot(d, options.image)
        ms = {"with": [], "without": []}
        forget_template(d)
        answer(d)  # makes the record
        record = (d.dir / "templates/t/ram.first").read_bytes()
        for _ in range(2 * options.rounds):
            for name, times in ms.items():
                forget_template(d, touched_first=False)
                if name == "with":
                    d.kill(signal.SIGTERM)
                    (d.dir / "templates/t/ram.first").write_bytes(record)
                    d.start()
                times.append(answer(d))
        results["chunks"] = sum(byte.bit_count() for byte in record)
        results["ratio"] = round(statistics.median(ms["with"]) / statistics.median(ms["without"]), 3)
        for name, times in ms.items():
            results[name] = {"ms": spread(times)}
            print(f"first: {options.image}, {name} the record: {text(times)} ms to the first answer")
        print(f"first: {results['chunks']} chunks of 64 KiB; with / without {results['ratio']}")
    return results


def answer(d):
    """Milliseconds from a clone's request to its answer on the console."""
    start = time.monotonic()
    [name] = d.clone("t")
    d.sh(name, "echo here")
    ms = (time.monotonic() - start) * 1000
    remove(d, [name])
    return ms


def cpu_ns(pid):
    """Of all its threads that are there."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def job_once(d, vm, command):
    """Seconds by the clock, and of CPU in QEMU and pager."""
    pids = [d.vm(vm)["pid"]]
    engine = d.api("GET", "/v1/stats")["engine"]
    if engine:
        pids.append(engine["pid"])
    with d.console(vm) as console:
        console.sh(":")
        cpu, start = sum(map(cpu_ns, pids)), time.monotonic()
        console.sh(command)
        return time.monotonic() - start, (sum(map(cpu_ns, pids)) - cpu) / 1e9


def bench_jobs(options):
    """Everything new each turn, and no random addresses: where code lies in the guest decides how well QEMU's
    hash tables do, and makes two templates of the same image differ by more (14 % were seen) than engines do."""
    jobs = ("fresh", *JOBS)
    times = {(job, which, e): [] for job in jobs for which in ("cpu", "wall") for e in ENGINES}
    results = {}
    with both() as daemons:
        for turn in range(options.rounds * 2):
            for d in daemons.values():
                boot(d, "minimal", append=" nokaslr norandmaps")
            for engine in ENGINES[::1 if turn % 2 else -1]:
                d = daemons[engine]
                [vm] = d.clone("t")
                d.sh(vm, "sleep 1")
                got = {"fresh": job_once(d, vm, FRESH)}
                d.sh(vm, PREPARE)
                for job, command in JOBS.items():
                    d.sh(vm, command)  # warms up
                    got[job] = job_once(d, vm, command)
                remove(d, [vm])
                d.api("DELETE", "/v1/templates/t")
                for job, (wall, cpu) in got.items():
                    times[job, "wall", engine].append(wall)
                    times[job, "cpu", engine].append(cpu)
    for job in jobs:
        results[job] = {}
        for which in ("cpu", "wall"):
            pager, kernel = (times[job, which, e] for e in ENGINES)
            ratio = statistics.median(pager) / statistics.median(kernel)
            pairs = [a / b for a, b in zip(pager, kernel)]
            results[job][which] = {"ratio": round(ratio, 3), "pairs": spread(pairs, 3),
                                   "pager_s": spread(pager, 3), "kernel_s": spread(kernel, 3)}
            print(f"job {job:<6} {which:<4} pager / kernel {ratio:.3f}, pairs {text(pairs, 3)}; "
                  f"{text(pager, 3)} s, {text(kernel, 3)} s")
    return results


def touch(d, vm, rounds):
    """Nanoseconds a page that a guest's check of its memory takes longer after all was evicted."""
    pages, values = TOUCH_MIB * 256, []
    with d.console(vm) as console:
        console.sh(f"memtool fill {TOUCH_MIB} 3")
        for _ in range(rounds):
            times = []
            for cold in (False, True):
                console.sh("memtool check")
                if cold:
                    d.api("POST", f"/v1/vms/{vm}/evict", {})
                start = time.monotonic()
                assert console.sh("memtool check") == f"ok {TOUCH_MIB} 3\n"
                times.append(time.monotonic() - start)
            values.append((times[1] - times[0]) * 1e9 / pages)
    return values


def bench_touch(options):
    """Pages of random numbers: stored as they are, so this is the way there and back, without coders."""
    results = {}
    for accel in ("tcg", "kvm"):
        try:
            with daemon("pager") as d:
                boot(d, "minimal", accel)
                [vm] = d.clone("t")
                values = touch(d, vm, options.rounds)
        except Exception as e:  # whatever kept KVM from it: say so
            if accel == "tcg":
                raise
            results[accel] = {"missing": str(e).splitlines()[0]}
            print(f"touch {accel}: {results[accel]['missing']}")
            continue
        results[accel] = {"ns_per_page": spread(values, 0)}
        print(f"touch {accel}: {text(values, 0)} ns a page, {TOUCH_MIB} MiB in order after all was evicted")
    return results


def bench_idle(options):
    with daemon("pager") as d:
        boot(d, options.image)
        names = d.clone("t", options.clones)
        time.sleep(options.idle_s)

        def figures():
            stats = d.api("GET", "/v1/stats")
            return stats["engine"], stats["parts"]
        engine0, parts0 = figures()
        evicted = sum(d.api("POST", f"/v1/vms/{name}/evict", {})["evicted_bytes"] for name in names)
        engine1, parts1 = figures()
        memory = [d.vm(name)["memory"] for name in names]
        pages = evicted // 4096

        def sum_of(key):
            return sum(m[key] for m in memory) // 4096
        grown = parts1["store_bytes"] - parts0["store_bytes"]
        pager = max(0, parts1["pager_bytes"] - parts0["pager_bytes"])
        result = {
            "image": options.image, "clones": len(names), "idle_s": options.idle_s, "pages": pages,
            "stored_pages": sum_of("stored_raw_bytes"), "same_pages": sum_of("same_bytes"),
            "zero_pages": sum_of("zero_bytes"),
            "store_bytes": engine1["store_bytes"] - engine0["store_bytes"],
            "store_host_bytes": grown, "pager_bytes": pager,
            "bytes_per_page": round((grown + pager) / max(1, pages), 1),
            "bytes_per_page_store": round(grown / max(1, pages), 1),
            "page_table_bytes_left": sum(m["page_table_bytes"] for m in memory)}
        print(f"idle: {len(names)} clones of {options.image} after {options.idle_s} s: {pages} pages evicted "
              f"({result['stored_pages']} stored, {result['zero_pages']} zero, {result['same_pages']} same with an "
              f"entry), host memory of store {grown} + pager {pager}: {result['bytes_per_page']} bytes a page, "
              f"{result['bytes_per_page_store']} without what the pager takes once")
        return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", default="desktop", choices=["desktop", "minimal"], help="of clone and idle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clones", type=int, default=16, help="that idle")
    parser.add_argument("--idle-s", type=int, default=30)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--out", default=str(ROOT / "build/bench/engine.json"))
    options = parser.parse_args()
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = {}
    for part in options.only or PARTS:
        results[part] = globals()[f"bench_{part}"](options)
        out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
