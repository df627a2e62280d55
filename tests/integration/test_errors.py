"""Bad input of every kind: a clear error that says what, why and what to do; nothing lost or left."""
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from coppice import ApiError, minimal_machine


def refused(daemon, method, path, body=None, raw=None):
    with pytest.raises(ApiError) as caught:
        daemon.api(method, path, body, raw)
    assert caught.value.code and caught.value.message
    return caught.value


@pytest.fixture
def template(daemon):
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 4 4")
    daemon.freeze("m", "t")
    return daemon.dir / "templates" / "t"


@pytest.mark.parametrize("change, word", [
    ({"kernel": "/nonexistent"}, "not-found"),
    ({"kernel": "relative"}, "bad-request"),
    ({"kernel": "/etc"}, "bad-request"),
    ({"kernel": "/etc/passwd"}, "internal"),  # QEMU says that it is no kernel
    ({"kernel": None}, "bad-request"),
    ({"name": "Bad Name"}, "bad-request"),
    ({"name": "../x"}, "bad-request"),
    ({"name": "x" * 64}, "bad-request"),
    ({"memory_bytes": 1}, "bad-request"),
    ({"memory_bytes": "much"}, "bad-request"),
    ({"memory_bytes": -5}, "bad-request"),
    ({"cpus": 0}, "bad-request"),
    ({"display": "hologram"}, "bad-request"),
    ({"network": "all"}, "bad-request"),
    ({"accel": "magic"}, "bad-request"),
    ({"unknown": 1}, "bad-request"),
    ({"extra_args": ["-nonsense"]}, "internal"),
    ({"extra_args": "-nonsense"}, "bad-request"),
    ({"disks": [{"path": "/nonexistent"}]}, "not-found"),
    ({"disks": [{"path": "relative"}]}, "bad-request"),
    ({"disks": [{"path": "/etc"}]}, "bad-request"),
    ({"disks": [{}]}, "bad-request"),
    ({"disks": [{"path": "/etc/passwd", "format": "qcow2"}]}, "bad-request"),
])
def test_run_with_bad_input(daemon, change, word):
    """Would catch: a bad request that half-starts a VM, or crashes the daemon."""
    error = refused(daemon, "POST", "/v1/vms", {**minimal_machine(), "name": "m", **change})
    assert error.code == word, error
    assert daemon.vms() == {} and daemon.files() == set()


def test_images_that_stand_on_others(daemon, tmp_path):
    """Would catch: an image of a stranger that makes the daemon read a file of its choice."""
    evil = tmp_path / "evil.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw", evil, "1M"],
                   check=True)
    error = refused(daemon, "POST", "/v1/vms", {**minimal_machine(), "disks": [{"path": str(evil)}]})
    assert error.code == "unsupported" and "qemu-img convert" in error.hint
    vmdk = tmp_path / "x.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", vmdk, "1M"], check=True)
    error = refused(daemon, "POST", "/v1/vms", {**minimal_machine(), "disks": [{"path": str(vmdk)}]})
    assert error.code == "unsupported"
    damaged = tmp_path / "damaged.qcow2"
    damaged.write_bytes(b"QFI\xfb\0\0\0\3" + b"\xff" * 500)
    error = refused(daemon, "POST", "/v1/vms", {**minimal_machine(), "disks": [{"path": str(damaged)}]})
    assert error.code == "bad-request"
    assert daemon.files() == set()


def test_names_taken_and_unknown(daemon, template):
    """Would catch: two VMs or templates of one name, or an error that does not say which."""
    assert refused(daemon, "POST", "/v1/vms", {**minimal_machine(), "name": "m"}).code == "name-taken"
    assert refused(daemon, "POST", "/v1/vms/m/freeze", {"template": "t"}).code == "name-taken"
    assert refused(daemon, "POST", "/v1/vms/m/freeze", {"template": "No Name"}).code == "bad-request"
    assert refused(daemon, "POST", "/v1/vms/m/freeze", {}).code == "bad-request"
    assert refused(daemon, "POST", "/v1/templates/t/clone", {"names": ["a", "m"]}).code == "name-taken"
    assert refused(daemon, "POST", "/v1/templates/t/clone", {"names": ["a", "a"]}).code == "name-taken"
    assert refused(daemon, "POST", "/v1/templates/t/clone", {"count": 2, "names": ["a"]}).code == "bad-request"
    assert refused(daemon, "POST", "/v1/templates/t/clone", {"count": 0, "names": []}).code == "bad-request"
    assert refused(daemon, "POST", "/v1/templates/nope/clone").code == "not-found"
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/stop"),
                         ("POST", "/start"), ("POST", "/fork"), ("GET", "/screenshot"), ("GET", "/console"),
                         ("GET", "/vnc")]:
        assert refused(daemon, method, f"/v1/vms/nope{path}").code == "not-found"
    assert list(daemon.vms()) == ["m"] and list(daemon.templates()) == ["t"]


def test_template_in_use(daemon, template):
    """Would catch: a template that is removed under its clones."""
    [c] = daemon.clone("t")
    daemon.api("DELETE", "/v1/vms/m?force=true")
    error = refused(daemon, "DELETE", "/v1/templates/t")
    assert error.code == "in-use" and c in error.message
    daemon.api("DELETE", f"/v1/vms/{c}?force=true")
    daemon.api("DELETE", "/v1/templates/t")


def damage(path, how):
    data = path.read_bytes()
    if how == "truncated":
        os.truncate(path, len(data) // 2)
    elif how == "altered":
        with open(path, "r+b") as file:
            file.seek(len(data) // 2)
            byte = data[len(data) // 2]
            file.write(bytes([byte ^ 1]))
    else:
        path.unlink()
    return data


@pytest.mark.parametrize("how", ["truncated", "altered", "removed"])
@pytest.mark.parametrize("part", ["ram", "state"])
def test_damaged_template(daemon, template, part, how):
    """Would catch: a clone that is started from wrong bytes."""
    path = template / part
    before = path.read_bytes()
    damage(path, how)
    error = refused(daemon, "POST", "/v1/templates/t/clone", {"count": 2})
    assert error.code == ("not-found" if how == "removed" else "damaged") and "'t'" in error.message, error
    checks = {c["part"]: c for c in daemon.api("GET", "/v1/templates/t?verify=true")["checks"]}
    assert not checks[part]["ok"] and checks["state" if part == "ram" else "ram"]["ok"]
    assert list(daemon.vms()) == ["m"], "nothing is left of the clones"
    path.write_bytes(before)
    [c] = daemon.clone("t")  # restored: it works again
    assert daemon.sh(c, "memtool check") == "ok 4 4\n"


@pytest.mark.parametrize("what, engine", [("ram", "kernel"), ("ram.sums", "kernel"), ("ram.sums", "pager")])
def test_damaged_ram_after_loss_of_memory(make_daemon, what, engine):
    """Would catch: a RAM image that is loaded without looking at its checksums, or at checksums that were altered."""
    daemon = make_daemon("--engine", engine)
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 4 4")
    daemon.freeze("m", "t")
    template = daemon.dir / "templates/t"
    daemon.api("DELETE", "/v1/vms/m?force=true")
    daemon.kill()
    for image in daemon.ram_dir().iterdir():
        image.unlink()
    manifest = json.loads((template / "template.json").read_text())
    stat = os.stat(template / what)
    damage(template / what, "altered")
    # The same size and times: only the checksum tells.
    os.utime(template / what, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    manifest["sums"]["files"]["ram"]["ctime_ns"] = os.stat(template / "ram").st_ctime_ns
    (template / "template.json").write_text(json.dumps(manifest))
    daemon.start()
    assert refused(daemon, "POST", "/v1/templates/t/clone").code == "damaged"
    daemon.api("DELETE", "/v1/templates/t")


def test_old_template(daemon, template):
    """Would catch: a template of an older version that is misread, or refused without a word why."""
    daemon.kill()
    manifest = template / "template.json"
    good = manifest.read_text()
    manifest.write_text(good.replace('"format" : 2', '"format" : 1'))
    daemon.start()
    error = refused(daemon, "POST", "/v1/templates/t/clone")
    assert error.code == "damaged" and "older coppice" in error.message
    daemon.kill()
    manifest.write_text(good)
    daemon.start()


def test_damaged_manifests(daemon, template):
    """Would catch: a damaged file that keeps the daemon from starting, or costs other files."""
    daemon.kill()
    manifest = template / "template.json"
    good = manifest.read_text()
    for bad in ("", "{", "[]", good[: len(good) // 2], good.replace('"format" : 2', '"format" : 9'), "[" * 100000,
                good.replace('"type" :', '"typo" :')):
        manifest.write_text(bad)
        daemon.start()
        assert daemon.vm("m")["state"] == "running"
        error = refused(daemon, "POST", "/v1/templates/t/clone")
        assert error.code == "damaged" and "template rm" in error.hint
        doctor = daemon.api("GET", "/v1/doctor")["checks"]
        assert [c["status"] for c in doctor if c["name"] == "template t"] == ["fail"]
        daemon.kill()
    manifest.write_text(good)
    daemon.start()
    [c] = daemon.clone("t")
    assert daemon.sh(c, "memtool check") == "ok 4 4\n"


def test_changed_base_image(daemon, tmp_path):
    """Would catch: clones on a disk image that is no longer the one that was frozen."""
    disk = tmp_path / "base.raw"
    disk.touch()
    os.truncate(disk, 1 << 20)
    daemon.ready_vm(disks=[{"path": str(disk), "format": "raw"}])
    daemon.freeze("m", "t")
    with open(disk, "r+b") as file:
        file.write(b"changed")
    error = refused(daemon, "POST", "/v1/templates/t/clone")
    assert error.code == "damaged" and str(disk) in error.message
    disk.unlink()
    assert refused(daemon, "POST", "/v1/templates/t/clone").code == "not-found"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 MB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m,mode=700", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_disk_full_while_freezing(small_disk, make_daemon):
    """Would catch: half a template, or a VM that is lost with a freeze that fails."""
    daemon = make_daemon(directory=small_disk / "d")
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 30 3; echo x > /tmp/f")  # more than fits beside kernel and initrd
    unnamed = lambda files: sorted(f.partition("ram:")[0] or "ram" for f in files)
    before = unnamed(daemon.files())
    for stop in (False, True):
        error = refused(daemon, "POST", "/v1/vms/m/freeze", {"template": "t", "stop": stop})
        assert error.code == "no-space" and error.hint
        assert daemon.templates() == {} and unnamed(daemon.files()) == before
        assert not list((daemon.dir / "templates").iterdir())
        assert daemon.vm("m")["state"] == "running"
        assert daemon.sh("m", "memtool check; cat /tmp/f") == "ok 30 3\nx\n"


def test_no_room_for_ram_images(make_daemon, tmp_path):
    """Would catch: a QEMU or daemon that is killed by SIGBUS, or a clone that is lost, when the tmpfs is full."""
    place = tmp_path / "ram"
    place.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=700", "tmpfs", place], check=True)
    try:
        daemon = make_daemon("--ram-dir", str(place), ram_dir=place)
        error = refused(daemon, "POST", "/v1/vms", minimal_machine(256))
        assert error.code == "no-space" and "256.0 MiB" in error.message and re.search(r"(200|150).0 MiB are left", error.message)
        daemon.ready_vm()
        daemon.sh("m", "memtool fill 8 3")
        daemon.freeze("m", "t")
        [c] = daemon.clone("t")
        assert refused(daemon, "POST", f"/v1/vms/{c}/freeze", {"template": "t2"}).code == "no-space"
        assert daemon.sh(c, "memtool check") == "ok 8 3\n" and daemon.vm(c)["state"] == "running"
        assert list(daemon.templates()) == ["t"]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_limits_refuse_with_figures(make_daemon):
    """Would catch: a limit that is not kept, or an error without its figures."""
    daemon = make_daemon("--max-vms", "3", "--max-memory", "300M")
    daemon.ready_vm()
    daemon.freeze("m", "t")
    error = refused(daemon, "POST", "/v1/templates/t/clone", {"count": 3})
    assert error.code == "limit" and "4 VMs" in error.message and "3" in error.message
    error = refused(daemon, "POST", "/v1/templates/t/clone", {"count": 2})
    assert error.code == "limit" and "128.0 MiB" in error.message and "300.0 MiB" in error.message
    assert list(daemon.vms()) == ["m"]
    daemon.clone("t")
    limits = daemon.api("GET", "/v1/stats")["limits"]
    assert limits["vms"] == {"used": 2, "max": 3}
    assert limits["memory_bytes"] == {"used": 256 << 20, "max": 300 << 20}


def test_disk_limit(make_daemon):
    """Would catch: a disk limit that is not looked at."""
    daemon = make_daemon("--max-disk", "40M")  # kernel and initrd have nearly that
    daemon.ready_vm()
    daemon.freeze("m", "t")  # brings it over the limit
    error = refused(daemon, "POST", "/v1/templates/t/clone")
    assert error.code == "limit" and "40.0 MiB" in error.message
    assert refused(daemon, "POST", "/v1/vms", minimal_machine()).code == "limit"


@pytest.mark.parametrize("raw", ["", "{", "[]", "nul", '{"a":' * 1000, "\xff", '"x"', '{"template": 5}', '{"template": null}'])
def test_bodies_that_are_none(daemon, raw):
    """Would catch: a parser that a request can crash."""
    daemon.run_minimal()
    assert refused(daemon, "POST", "/v1/vms/m/freeze", raw=raw.encode("latin-1")).status == 400
    assert daemon.templates() == {}


def test_too_large_a_body(daemon):
    """Would catch: a daemon that takes in a body without end."""
    with pytest.raises((OSError, ApiError, Exception)):
        daemon.api("POST", "/v1/vms", raw=b" " * (8 << 20))
    assert daemon.vms() == {}


def test_two_operations_on_one_vm(daemon):
    """Would catch: two freezes at once that mix their layers."""
    import threading
    daemon.ready_vm()
    results = []

    def freeze(i):
        try:
            results.append(daemon.freeze("m", f"t{i}")["template"]["name"])
        except ApiError as error:
            results.append(error.code)

    threads = [threading.Thread(target=freeze, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = set(daemon.templates())
    assert made and made == {r for r in results if r != "busy"}
    for name in made:
        [c] = daemon.clone(name)
        assert daemon.sh(c, "echo ok") == "ok\n"


def test_second_daemon_is_refused(daemon):
    """Would catch: two daemons on one folder."""
    from coppice import Daemon
    second = Daemon(daemon.dir)
    second.log = daemon.log
    with pytest.raises(AssertionError, match="another coppiced"):
        second.start()


@pytest.mark.parametrize("options, text", [
    (["--max-vms", "x"], "x"), (["--memory-limit", "5Q"], "5Q"), (["extra"], "extra"), (["--nope"], "nope"),
    (["--dir", "/" + "x" * 90], "shorter")])
def test_bad_options(options, text):
    """Would catch: a wrong option that is ignored."""
    from coppice import BUILD
    done = subprocess.run([BUILD / "src/daemon/coppiced", *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and text in done.stderr


@pytest.mark.parametrize("how", ["slash", "link"])
def test_other_spellings_of_the_ram_dir(make_daemon, how):
    """Would catch: a mapping that is not recognized by its path, and a template of wrong bytes."""
    place = Path(f"/dev/shm/coppice-spelling-{os.getpid()}")
    place.mkdir(mode=0o700)
    link = Path(f"/tmp/coppice-spelling-{os.getpid()}")
    link.symlink_to(place)
    try:
        daemon = make_daemon("--ram-dir", f"{place}/" if how == "slash" else str(link), ram_dir=place)
        daemon.ready_vm()
        daemon.sh("m", "memtool fill 8 6")
        daemon.freeze("m", "t1")
        [c] = daemon.clone("t1")
        for i in (2, 3):
            daemon.sh(c, f"echo {i} > /tmp/f")
            daemon.freeze(c, f"t{i}")
        [d] = daemon.clone("t3")
        assert daemon.sh(d, "cat /tmp/f; memtool check") == "3\nok 8 6\n"
        assert daemon.vm(d)["memory"]["shared_bytes"] > 0
        daemon.restart()
        daemon.freeze(c, "t4")
        [e] = daemon.clone("t4")
        assert daemon.sh(e, "cat /tmp/f; memtool check") == "3\nok 8 6\n"
    finally:
        daemon.options = ("--ram-dir", str(place))
        daemon.restart()
        link.unlink()


def test_damaged_vm_manifest_is_left_alone(daemon):
    """Would catch: a new VM that takes the folder of one whose manifest can't be read."""
    daemon.ready_vm()
    daemon.api("POST", "/v1/vms/m/stop", {"force": True})
    manifest = daemon.dir / "vms/0/vm.json"
    good = manifest.read_text()
    daemon.kill()
    manifest.write_text(good[:-20])
    daemon.start()
    assert daemon.vms() == {}
    daemon.run_minimal("other")
    assert manifest.read_text() == good[:-20]
    assert any(c["status"] == "fail" and c["name"] == "vms" for c in daemon.api("GET", "/v1/doctor")["checks"])
    daemon.api("DELETE", "/v1/vms/other?force=true")
    daemon.kill()
    manifest.write_text(good)
    daemon.start()
    daemon.api("POST", "/v1/vms/m/start")
    daemon.ready("m")


@pytest.fixture
def fake():
    """A path for a QEMU that a VM's user can reach."""
    path = Path(f"/tmp/coppice-fake-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def test_start_that_fails(fake, daemon):
    """Would catch: a VM that stays in state starting, and counts as given, when QEMU can't be run."""
    fake.symlink_to("/usr/bin/qemu-system-x86_64")
    daemon.options = ("--qemu", str(fake))
    daemon.restart()
    daemon.ready_vm()
    daemon.api("POST", "/v1/vms/m/stop", {"force": True})
    fake.unlink()
    fake.write_text("not a program")
    fake.chmod(0o755)
    error = refused(daemon, "POST", "/v1/vms/m/start")
    assert str(fake) in error.message
    assert daemon.vm("m")["state"] == "failed"
    assert daemon.api("GET", "/v1/stats")["limits"]["memory_bytes"]["used"] == 0
    daemon.restart()
    assert daemon.vm("m")["state"] == "failed"
    fake.unlink()
    fake.symlink_to("/usr/bin/qemu-system-x86_64")
    daemon.api("POST", "/v1/vms/m/start")
    daemon.ready("m")


def test_fork_that_cannot_be(daemon):
    """Would catch: a fork that freezes, and leaves a template, before it looks at names and limits."""
    daemon.ready_vm()
    assert refused(daemon, "POST", "/v1/vms/m/fork", {"names": ["m"]}).code == "name-taken"
    assert refused(daemon, "POST", "/v1/vms/m/fork", {"count": 500}).code == "limit"
    assert refused(daemon, "POST", "/v1/vms/m/fork", {"template": "No"}).code == "bad-request"
    assert daemon.templates() == {} and list(daemon.vms()) == ["m"]
    assert daemon.vm("m")["template"] is None


def test_layer_of_a_template_is_never_written(daemon, tmp_path):
    """Would catch: a VM that is started on a template's layer, as from a manifest of before a loss of power."""
    disk = tmp_path / "d.raw"
    disk.touch()
    os.truncate(disk, 1 << 20)
    daemon.ready_vm(disks=[{"path": str(disk), "format": "raw"}])
    manifest = daemon.dir / "vms/0/vm.json"
    old = json.loads(manifest.read_text())["machine"]
    daemon.freeze("m", "t")
    daemon.api("POST", "/v1/vms/m/stop", {"force": True})
    daemon.kill()
    now = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**now, "machine": old}))
    daemon.start()
    assert "belongs to a template" in refused(daemon, "POST", "/v1/vms/m/start").message
    daemon.clone("t")
