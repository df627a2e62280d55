# SPDX-License-Identifier: MIT
"""What each command asks and prints. The peer checks every request against the contract."""
import json

import pytest

from fake_daemon import FREEZE, NO_AGENT, QUIESCE, READY, error, template, vm


# Catches: a request that leaves an option out, or says what was not asked for.
@pytest.mark.parametrize("args, body", [
    (["disk.img"], {"disks": ["disk.img"]}),
    (["disk.img", "--disk", "b.img", "--disk=/abs/c.img"], {"disks": ["disk.img", "b.img", "/abs/c.img"]}),
    (["--kernel", "k", "--initrd", "i", "--append", "quiet x=1"], {"kernel": "k", "initrd": "i", "append": "quiet x=1"}),
    (["disk.img", "-n", "a", "-m", "512M", "-c", "2", "--accel", "tcg", "--engine", "kernel", "--display", "none", "--network", "isolated",
      "--ssh", "--qemu-arg=-device", "--qemu-arg", "virtio-rng-pci"],
     {"disks": ["disk.img"], "name": "a", "memory_bytes": 512 << 20, "cpus": 2, "accel": "tcg", "engine": "kernel", "display": "none",
      "network": "isolated", "ssh": True, "extra_args": ["-device", "virtio-rng-pci"]}),
])
def test_run(coppice, daemon, folder, args, body):
    (folder / "disk.img").touch()
    daemon.on("POST /v1/vms", 201, vm("a", ssh_port=40022))
    result = coppice("run", *args)
    assert result.out == "'a' is running (tcg, 1.0 GiB, 1 processor)\n  a: ssh at 127.0.0.1 port 40022\n"
    sent = daemon.requests[0][2]
    sent["disks"] = [d["path"] for d in sent["disks"]] if "disks" in sent else None
    for key in ("kernel", "initrd"):
        body = {**body, key: str(folder / body[key])} if key in body else body
    assert sent == {**body, "disks": [str(folder / d) for d in body["disks"]] if "disks" in body else None}


def make_image(folder, name, files, **manifest):
    path = folder / "images" / name
    path.mkdir(parents=True)
    for file in files:
        (path / file).touch()
    (path / "image.json").write_text(json.dumps({"format": 1, "name": name, **manifest}))
    return path


# Catches: run --wait that does not wait, waits for a VM that has ended, or for ever.
def test_run_wait(coppice, daemon, folder):
    disk = folder / "x.raw"
    disk.write_bytes(b"x")
    daemon.on("POST /v1/vms", 201, vm())
    daemon.on("GET /v1/vms/desk", 200, vm(agent=READY))
    assert coppice("run", str(disk), "--wait").out == "'desk' is running (tcg, 1.0 GiB, 1 processor)\n"
    daemon.on("GET /v1/vms/desk", 200, vm(state="failed", reason="it panicked"))
    assert "'desk' did not come up: it panicked" in coppice("run", str(disk), "--wait", status=1).err
    daemon.on("GET /v1/vms/desk", 200, vm())
    assert "no agent has answered in VM 'desk' in 1 s" in coppice("run", str(disk), "--wait", "--ready-timeout", "1", status=1).err


# Catches: an image's settings that are lost, or that beat the command line's.
def test_run_image(coppice, daemon, folder):
    disk = make_image(folder, "desktop", ["disk.qcow2"], kind="disk", disk="disk.qcow2", disk_format="qcow2",
                      memory_bytes=1 << 30, cpus=1, display="vga", network="user", packages=[["a", "1"]])
    kernel = make_image(folder, "minimal", ["vmlinuz", "initrd.img"], kind="kernel", kernel="vmlinuz",
                        initrd="initrd.img", append="quiet", memory_bytes=128 << 20)
    daemon.on("POST /v1/vms", 201, vm())
    coppice("run", "desktop", "-c", "3", "--network", "none")
    coppice("run", str(kernel), "--append", "loud")
    coppice("run", "desktop", "--image-dir", str(folder / "images"), "--dir", str(folder))
    want = {"disks": [{"path": str(disk / "disk.qcow2"), "format": "qcow2"}], "memory_bytes": 1 << 30, "cpus": 1,
            "display": "vga", "network": "user"}
    assert [r[2] for r in daemon.requests] == [
        {**want, "cpus": 3, "network": "none"},
        {"kernel": str(kernel / "vmlinuz"), "initrd": str(kernel / "initrd.img"), "append": "loud", "memory_bytes": 128 << 20},
        want]
    listed = coppice.json("image", "ls")["images"]
    assert [(i["name"], i["path"]) for i in listed] == [("desktop", str(disk)), ("minimal", str(kernel))]


# Catches: an image that reaches for files outside of it, or is used though it is damaged.
@pytest.mark.parametrize("files, manifest, says", [
    ([], {"kind": "disk", "disk": "../../secret"}, "names a file outside of it: '../../secret'"),
    ([], {"kind": "disk", "disk": ".."}, "names a file outside of it: '..'"),
    ([], {"kind": "disk", "disk": "gone"}, "there is no file 'gone'"),
    (["k"], {"kind": "kernel", "kernel": "k", "initrd": "/etc/passwd"}, "outside of it: '/etc/passwd'"),
    (["k"], {"kind": "kernel", "kernel": "k", "initrd": 5}, "has no text at 'initrd'"),
    ([], {"kind": "tape"}, "unknown kind: 'tape'"),
    ([], {"format": 2, "kind": "disk"}, "not of format 1"),
])
def test_damaged_image(coppice, daemon, folder, files, manifest, says):
    (folder / "secret").touch()
    make_image(folder, "bad", files, **manifest)
    assert says in coppice("run", "bad", status=1).err
    assert says in coppice("image", "ls", status=1).err
    assert daemon.requests == []


def test_missing_image(coppice, daemon):
    assert "hint: coppice image build desktop\n" in coppice("run", "desktop", status=1).err
    assert "hint: coppice image build" not in coppice("run", "nope", status=1).err
    assert daemon.requests == []


# Catches: requests and figures of freeze, clone and fork.
def test_freeze_clone_fork(coppice, daemon):
    daemon.on("POST /v1/vms/desk/freeze", 201, {"template": template(agent=True), "vm": vm(), "freeze": FREEZE, "quiesce": QUIESCE})
    clones = [vm(f"base-{i}", template="base", agent=READY, start={**vm()["start"], "total_ms": ms})
              for i, ms in enumerate((1400, 310, 2900), 1)]
    daemon.on("POST /v1/templates/base/clone", 201, {"vms": clones, "all_ms": 2900.4, "ready_ms": 3100})
    daemon.on("POST /v1/vms/desk/fork", 201, {"template": template("t"), "vms": clones[:1], "freeze": FREEZE, "all_ms": 350,
                                                  "ready_ms": None})
    assert coppice("freeze", "desk", "base").out == "frozen 'desk' as 'base': the VM stood still for 61 ms\n"
    assert coppice("freeze", "desk", "base", "--stop").out == "frozen 'desk' as 'base': the VM has ended\n"
    daemon.on("POST /v1/vms/lone/freeze", 201, {"template": template(), "vm": vm(), "freeze": FREEZE, "quiesce": QUIESCE})
    assert "no agent has answered in it" in coppice("freeze", "lone", "base").out
    assert coppice("clone", "base", "-n", "3").out == ("3 clones running in 2.9 s (first 0.31 s, median 1.4 s)\n"
                                                       "  base-1 base-2 base-3\n"
                                                       "  ready in 3.1 s: random, hostname\n")
    coppice("clone", "base", "--name", "a", "--name", "b", "--ssh", "--paused")
    assert coppice("fork", "desk").out == ("forked 'desk' by way of 't': the VM stood still for 61 ms\n"
                                           "clone 'base-1' running in 0.35 s\n")
    coppice("fork", "desk", "--template", "t", "-n", "2", "--ssh")
    assert [r[2] for r in daemon.requests] == [
        {"template": "base"}, {"template": "base", "stop": True}, {"template": "base"}, {"count": 3},
        {"count": 2, "names": ["a", "b"], "ssh": True, "paused": True}, {"count": 1},
        {"count": 2, "template": "t", "ssh": True}]


# Catches: a column that is lost, a missing figure that shows as 0, REASON shown for nothing.
def test_ps(coppice, daemon):
    rows = [vm(busy="freeze", ssh_port=2201, template="base"), vm("b", state="stopped", memory=None)]
    daemon.on("GET /v1/vms?memory=true", 200, {"vms": rows})
    lines = coppice("ps").out.splitlines()
    assert lines[0].split() == "NAME STATE TEMPLATE MEMORY PRIVATE SHARED CPUS ACCEL SSH AGE AGENT".split()
    assert lines[1].split()[:-2] == "desk running (freeze) base 1.0 GiB 5.0 MiB 300 MiB 1 tcg 2201".split()
    assert lines[2].split()[:-2] == "b stopped - 1.0 GiB - - 1 tcg -".split()
    assert coppice.json("ps") == {"vms": rows}
    daemon.on("GET /v1/vms?memory=true", 200, {"vms": [vm(reason="out of memory")]})
    assert coppice("ps").out.splitlines()[1].endswith("out of memory")
    lost = {**NO_AGENT, "state": "failed", "reason": "it sent nonsense"}
    daemon.on("GET /v1/vms?memory=true", 200, {"vms": [vm(agent=lost, labels={"b": "2", "a": "1"})]})
    lines = coppice("ps").out.splitlines()
    assert lines[0].split()[-3:] == "AGENT LABELS REASON".split()
    assert lines[1].endswith("  failed  a=1,b=2  agent: it sent nonsense")


# Catches: text of a guest that steers the terminal, in tables, errors and JSON.
def test_hostile_text(coppice, daemon):
    evil = "\x1b]0;owned\x07\r\n\x9b2J‮é"
    daemon.on("GET /v1/vms?memory=true", 200, {"vms": [vm(reason=evil)]})
    daemon.on("GET /v1/templates", 400, error("internal", evil, evil))
    daemon.on("GET /v1/stats", 500, b'{"error":{"code":"internal","message":"\xff\x1b[2J' + b'","hint":""}}')
    for out in (coppice("ps").out, coppice("templates", status=1).err, coppice("stats", status=1).err,
                coppice("ps", "--json").out):
        assert not [c for c in out if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c == "‮")]
    assert coppice.json("ps")["vms"][0]["reason"] == evil


# Catches: a verb that goes elsewhere, stops at the first failure, or hides it in the exit status.
def test_several_vms(coppice, daemon):
    for verb in ("pause", "resume", "start", "stop"):
        daemon.requests.clear()
        daemon.on(f"POST /v1/vms/a/{verb}", 200, vm("a"))
        daemon.on(f"POST /v1/vms/c/{verb}", 200, vm("c"))
        daemon.on(f"POST /v1/vms/b/{verb}", 409, error("busy", "VM 'b' is being frozen", "wait"))
        result = coppice(verb, "a", "b", "c", status=1)
        assert "'a'" in result.out and "'c'" in result.out
        assert result.err == "coppice: VM 'b' is being frozen\n  hint: wait\n"
        assert sorted(r[1] for r in daemon.requests) == [f"/v1/vms/{n}/{verb}" for n in "abc"]
        both = coppice.json(verb, "a", "b", status=1)
        assert [v["name"] for v in both["vms"]] == ["a"]
        assert both["errors"] == [{"name": "b", "code": "busy", "message": "VM 'b' is being frozen", "hint": "wait"}]


# Catches: --all that takes VMs in the wrong state; options of stop and rm that don't arrive.
def test_all(coppice, daemon):
    states = {"r": "running", "p": "paused", "s": "stopped", "f": "failed"}
    daemon.on("GET /v1/vms", 200, {"vms": [vm(n, state=s) for n, s in states.items()]})
    for name in states:
        for verb in ("pause", "resume", "start", "stop"):
            daemon.on(f"POST /v1/vms/{name}/{verb}", 200, vm(name))
        daemon.on(f"DELETE /v1/vms/{name}", 204)
        daemon.on(f"DELETE /v1/vms/{name}?force=true", 204)
    for args, names in ((["pause"], "r"), (["resume"], "p"), (["start"], "fs"), (["stop"], "pr"), (["rm"], "fs"),
                        (["rm", "-f"], "fprs")):
        daemon.requests.clear()
        coppice(*args, "--all")
        assert "".join(sorted(r[1].split("/")[3][0] for r in daemon.requests[1:])) == names, args
    assert coppice.json("rm", "s") == {"removed": ["s"], "errors": []}
    coppice("stop", "r", "-t", "7")
    coppice("stop", "r", "--force")
    assert [r[2] for r in daemon.requests[-2:]] == [{"timeout_s": 7}, {"force": True}]


# Catches, where glib-networking is installed: requests that go to the proxy of the caller's environment.
def test_no_proxy(coppice, daemon):
    coppice.env.update(http_proxy="http://127.0.0.1:9", all_proxy="http://127.0.0.1:9")
    daemon.on("GET /v1/vms?memory=true", 200, {"vms": []})
    coppice("ps")


# Catches: templates' commands; a damaged template that counts as good.
def test_templates(coppice, daemon):
    daemon.on("GET /v1/templates", 200, {"templates": [template(), template("t2", parent="base", clones=[])]})
    checks = [{"part": "ram", "ok": True, "detail": ""}, {"part": "state", "ok": False, "detail": "checksum"}]
    daemon.on("GET /v1/templates/base", 200, {"template": template(), "machine": {}, "checks": []})
    daemon.on("GET /v1/templates/base?verify=true", 200, {"template": template(), "machine": {}, "checks": checks})
    daemon.on("DELETE /v1/templates/base", 204)
    lines = coppice("templates").out.splitlines()
    assert lines[0].split() == "NAME PARENT MEMORY RAM DISK CLONES CREATED".split()
    assert lines[1].split()[:9] == "base - 1.0 GiB 480 MiB 1.0 MiB 1".split()
    assert "clones:          desk\n" in coppice("template", "inspect", "base").out
    assert "DAMAGED  state: checksum\n" in coppice("template", "inspect", "base", "--verify", status=1).out
    assert coppice.json("template", "inspect", "base", "--verify", status=1)["checks"] == checks
    assert coppice("template", "rm", "base").out == "removed 'base'\n"


# Catches: figures under the wrong name; unknown limits that show as 0.
def test_stats(coppice, daemon):
    used = {"used": 1, "max": 2 << 30}
    engine = dict.fromkeys(("pid", "store_bytes", "metadata_bytes", "index_bytes", "records", "raw_bytes", "duplicate_pages",
                            "evicted_pages", "restored_pages", "faults", "damaged_vms", "store_limit_bytes", "used_bytes",
                            "limit_bytes"), 0)
    parts = {f"{part}_bytes": (i + 1) << 20 for i, part in enumerate(
        ("private", "images", "store", "vmm", "pager", "daemon", "helpers", "kernel", "cache", "sum"))}
    stats = {"vms": [{"name": "desk", "state": "running", "memory": vm()["memory"]}],
             "total": {"vms": 1, "given_bytes": 1 << 30, "private_bytes": 5 << 20, "shared_bytes": 300 << 20,
                       "vmm_bytes": 30 << 20, "paid_bytes": 335 << 20, "ratio": 3.06, "source": "cgroup v2"},
             "host": {"memory_bytes": 8 << 30, "available_bytes": 4 << 30, "cgroup": "/x", "limit_bytes": None,
                      "peak_bytes": None, "anon_bytes": 0, "shmem_bytes": 0, "file_bytes": 0, "other_bytes": 0},
             "limits": {"vms": {"used": 1, "max": 256}, "memory_bytes": used, "disk_bytes": used},
             "templates": [{"name": "base", "ram_bytes": 1, "resident_bytes": 1, "loaded_bytes": 0, "dropped_bytes": 0}],
             "engine": {**engine, "raw_bytes": 8 << 20, "store_bytes": 3 << 20, "records": 17}, "parts": parts}
    daemon.on("GET /v1/stats", 200, stats)
    daemon.on("GET /v1/vms/desk", 200, vm())
    out = coppice("stats").out
    for text in ("1 VMs were given 1.0 GiB; the host pays 335 MiB: ratio 3.1\n", "paid is read from cgroup v2\n",
                 "cgroup /x: limit none, peak unknown\n", "limits: VMs 1 of 256, memory given 1 B of 2.0 GiB",
                 "store: pages of 8.0 MiB in 3.0 MiB, 17 records", "RAM images 2.0 MiB, store 3.0 MiB, QEMU 4.0 MiB"):
        assert text in out
    assert coppice("top", "--once").out.startswith("1 VMs were given") and coppice("top").out == coppice("top", "-1").out
    assert coppice.json("top") == stats
    one = coppice("stats", "desk").out.splitlines()
    assert one[1].split() == ("desk running 1.0 GiB 5.0 MiB 300 MiB 8.0 MiB 2.0 MiB 3.0 MiB 4.0 MiB "
                              "6.0 MiB 30.0 MiB").split()
    assert one[-1] == "started in 0.31 s (QEMU started 5.5 ms, its monitor answers 40 ms, state loaded 15 ms)"
    assert coppice.json("stats") == stats
    daemon.on("GET /v1/stats", 200, {**stats, "engine": None, "vms": []})
    assert "store: pages" not in coppice("stats").out


# Catches: an eviction of another size than asked for.
def test_evict(coppice, daemon):
    daemon.on("POST /v1/vms/desk/evict", 200, {"evicted_bytes": 5 << 20})
    assert coppice("evict", "desk").out == "5.0 MiB of 'desk' left RAM\n"
    assert coppice.json("evict", "desk", "--all") == {"evicted_bytes": 5 << 20}
    coppice("evict", "desk", "--bytes", "64M")
    coppice("evict", "desk", "--all", "--bytes", "1", status=2)
    coppice("evict", "desk", "--bytes", "much", status=2)
    coppice("evict", status=2)
    assert [r[2] for r in daemon.requests] == [{}, {}, {"bytes": 64 << 20}]


# Catches: a picture that is cut or saved under the wrong name, and --all that asks VMs without a screen.
def test_screenshot(coppice, daemon, folder):
    png = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 500
    daemon.on("GET /v1/vms/desk/screenshot", 200, png)
    daemon.on("GET /v1/vms", 200, {"vms": [vm(), vm("dark", display="none"), vm("off", state="stopped")]})
    coppice("screenshot", "desk")
    assert (folder / "desk.png").read_bytes() == png == coppice("screenshot", "desk", "-").stdout
    assert coppice.json("screenshot", "--all", "shots")["files"] == [{"name": "desk", "file": "shots/desk.png", "bytes": len(png)}]
    assert [p.name for p in (folder / "shots").iterdir()] == ["desk.png"]
    daemon.on("GET /v1/vms/desk/screenshot", 409, error("wrong-state", "VM 'desk' is not running"))
    coppice("screenshot", "desk", "other.png", status=1)
    assert not (folder / "other.png").exists()


# Catches: a failed check that exits with 0, advice that is not shown.
def test_doctor(coppice, daemon):
    checks = [{"name": "qemu", "status": "ok", "found": "7.2", "advice": ""},
              {"name": "kvm", "status": "warn", "found": "none", "advice": "load kvm"}]
    daemon.on("GET /v1/doctor", 200, {"accel": "tcg", "engine": "pager", "checks": checks})
    out = coppice("doctor").out
    assert "warn    kvm    none\n" in out and "  kvm: load kvm\n" in out and "picks tcg here, '--engine auto' pager." in out
    checks[0]["status"] = "fail"
    coppice("doctor", status=1)
    assert coppice.json("doctor", status=1)["checks"] == checks


# Catches: an error answer that is not told as the daemon told it, and answers of no sense that crash.
@pytest.mark.parametrize("status, answer, says", [
    (404, error("not-found", "there is no VM 'x'", "coppice ps"), "coppice: there is no VM 'x'\n  hint: coppice ps\n"),
    (500, b"<html>", "HTTP status 500"), (500, b"", "HTTP status 500"), (503, b'{"error": 5}', "HTTP status 503"),
    (500, b'{"error": {"code": [], "message": {}, "hint": 1}}', "HTTP status 500"),
    (200, b"[]", "makes no sense"), (200, b"{", "makes no sense"), (200, b"\xff\xfe", "makes no sense"),
])
def test_errors(coppice, daemon, status, answer, says):
    daemon.on("GET /v1/vms/x", status, answer)
    assert says in coppice("stats", "x", status=1).err
    assert set(coppice.json("stats", "x", status=1)["error"]) == {"code", "message", "hint"}


# Catches: a crash on members that are missing or of the wrong type.
@pytest.mark.parametrize("args", [["ps"], ["stats"], ["stats", "x"], ["templates"], ["template", "inspect", "x"],
                                  ["doctor"], ["version"], ["clone", "x"], ["fork", "x"], ["freeze", "x", "t"]])
@pytest.mark.parametrize("answer", [b"{}", b'{"vms": 5, "templates": {}, "checks": "", "total": [], "host": 1}',
                                    b'{"vms": [null, 1, {}, {"name": 5, "memory": {"given_bytes": -1}, "start": []}],'
                                    b'"templates": [[], {"clones": [1, null]}], "checks": [5, {}], "all_ms": "x"}'])
def test_answers_of_another_shape(coppice, daemon, args, answer):
    class Any(dict):
        def get(self, key, default=None):
            return (200, answer)
    daemon.answers = Any()
    # A check that is not "ok" counts as a failed one, whatever it is.
    coppice(*args, status=1 if args[0] == "template" and b"[5, {}]" in answer else 0)


# Catches: the builder called with the wrong words, or through a shell.
def test_image_build(coppice, folder):
    builder = folder / "my builder;x"
    builder.write_text("#!/bin/sh\nfor a; do echo \"<$a>\"; done\n[ $1 = desktop ] || exit 3\n"
                       "[ -d \"$3\" ] || { /bin/mkdir \"$3\"; : >\"$3/d\"; echo '{\"format\":1,\"kind\":\"disk\",\"disk\":\"d\"}' >\"$3/image.json\"; }\n")
    builder.chmod(0o755)
    coppice.env["COPPICE_IMAGE_BUILDER"] = str(builder)
    out = coppice("image", "build", "desktop", "--force").out
    assert out.split() == ["<desktop>", "<--out>", f"<{folder}/images/desktop>", "<--cache>", f"<{folder}/cache>", "<--force>"]
    coppice("image", "build", "minimal", status=3)
    coppice("image", "build", "minimal", "--json", status=1)
    assert coppice.json("image", "build", "desktop", "--out", "else where")["path"] == f"{folder}/else where"
    coppice.env["COPPICE_IMAGE_BUILDER"] = "/nonexistent/build"
    assert "cannot run /nonexistent/build" in coppice("image", "build", "minimal", status=1).err
