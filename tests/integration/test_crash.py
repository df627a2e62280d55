"""Processes killed at any point: nothing is lost, nothing half-made is left."""
import os
import random
import re
import signal
import threading

import pytest
from coppice import ApiError, qemus_of, wait_until

FREEZE_POINTS = ["intent", "quiesced", "stopped", "switched", "disks-noted", "state-saved", "ram-private",
                 "window-over", "written", "committed"]


@pytest.fixture
def data_disk(tmp_path):
    disk = tmp_path / "data.raw"
    disk.touch()
    os.truncate(disk, 16 << 20)
    return str(disk)


def start_with_fault(daemon, point):
    os.environ["COPPICE_FAULT"] = point
    try:
        daemon.restart()
    finally:
        del os.environ["COPPICE_FAULT"]


def expect_death(daemon, method, path, body):
    """The request ends with the daemon."""
    with pytest.raises((ConnectionError, OSError, ApiError, Exception)):
        daemon.api(method, path, body)
    assert daemon.process.wait(60) == -signal.SIGKILL


def test_daemon_killed_and_restarted(daemon):
    """Would catch: VMs that die with the daemon, or are not found again."""
    daemon.ready_vm()
    daemon.freeze("m", "t")
    names = ["m", *daemon.clone("t", 2)]
    pids = {name: daemon.vm(name)["pid"] for name in names}
    for sig in (signal.SIGKILL, signal.SIGTERM):
        daemon.restart(sig)
        assert {name: daemon.vm(name)["pid"] for name in names} == pids
        for name in names:
            assert daemon.sh(name, f"echo {name}") == f"{name}\n"
    [late] = daemon.clone("t")
    assert daemon.sh(late, "echo ok") == "ok\n"


def test_vm_ended_while_no_daemon_ran(daemon):
    """Would catch: a dead VM that is shown as running, or a stranger with its process id."""
    vm = daemon.ready_vm()
    daemon.kill()
    os.kill(vm["pid"], signal.SIGKILL)
    wait_until(lambda: not qemus_of(daemon.dir), "QEMU to go")
    daemon.start()
    vm = daemon.vm("m")
    assert vm["state"] == "failed" and "while no daemon" in vm["reason"]
    daemon.api("POST", "/v1/vms/m/start")
    daemon.ready("m")


def test_qemu_killed(daemon):
    """Would catch: a killed QEMU that is not noticed, or whose memory stays."""
    vm = daemon.ready_vm()
    daemon.freeze("m", "t")
    [clone] = daemon.clone("t")
    os.kill(daemon.vm(clone)["pid"], signal.SIGKILL)
    gone = daemon.wait_state(clone, "failed")
    assert "signal 9" in gone["reason"]
    os.kill(vm["pid"], signal.SIGKILL)
    daemon.wait_state("m", "failed")
    [late] = daemon.clone("t")
    assert daemon.sh(late, "echo ok") == "ok\n"
    daemon.api("DELETE", f"/v1/vms/{clone}")
    daemon.api("DELETE", "/v1/vms/m")


@pytest.mark.parametrize("nested", [False, True], ids=["booted", "clone"])
@pytest.mark.parametrize("point", FREEZE_POINTS)
def test_daemon_killed_in_a_freeze(daemon, data_disk, point, nested):
    """Would catch: a point of the freeze at which a kill loses a byte, the VM or the template."""
    daemon.ready_vm(disks=[{"path": data_disk}])
    daemon.sh("m", "mke2fs -q /dev/vda >/dev/null 2>&1; mkdir /mnt; mount /dev/vda /mnt; memtool fill 8 1; echo 0 > /tmp/f")
    vm = "m"
    if nested:
        daemon.freeze("m", "base")
        [vm] = daemon.clone("base")
        daemon.sh(vm, "echo nested > /tmp/nested")
    daemon.sh(vm, "echo a > /mnt/f; sync; echo a > /tmp/f")
    start_with_fault(daemon, f"freeze-{point}")
    expect_death(daemon, "POST", f"/v1/vms/{vm}/freeze", {"template": "t"})
    daemon.start()
    assert daemon.vm(vm)["state"] == "running"
    assert ("t" in daemon.templates()) == (point == "committed")
    assert not list((daemon.dir / "templates").glob(".*"))
    assert daemon.sh(vm, "cat /tmp/f /mnt/f; memtool check") == "a\na\nok 8 1\n"
    daemon.sh(vm, "echo b > /mnt/f; sync; echo b > /tmp/f")
    # The VM can be frozen again, and the template has what was written since.
    daemon.freeze(vm, "t2")
    daemon.sh(vm, "echo c > /mnt/f; sync; echo c > /tmp/f")
    [c] = daemon.clone("t2")
    assert daemon.sh(c, "echo 3 > /proc/sys/vm/drop_caches; cat /tmp/f /mnt/f; memtool check") == "b\nb\nok 8 1\n"
    if point == "committed":
        [c] = daemon.clone("t")
        assert daemon.sh(c, "echo 3 > /proc/sys/vm/drop_caches; cat /tmp/f /mnt/f; memtool check") == "a\na\nok 8 1\n"
    daemon.restart()
    assert daemon.sh(vm, "echo 3 > /proc/sys/vm/drop_caches; cat /tmp/f /mnt/f") == "c\nc\n"


@pytest.mark.parametrize("point", ["spawn-forked", "spawn-noted", "spawn-running", "clone-loaded"])
def test_daemon_killed_while_cloning(daemon, point):
    """Would catch: a QEMU that nobody knows, or half a clone in ps."""
    daemon.ready_vm()
    daemon.freeze("m", "t")
    start_with_fault(daemon, point)
    expect_death(daemon, "POST", "/v1/templates/t/clone", {"count": 1})
    daemon.start()
    assert list(daemon.vms()) == ["m"]
    wait_until(lambda: len(qemus_of(daemon.dir)) == 1, "QEMUs of clones that never were to go")
    assert daemon.sh("m", "echo ok") == "ok\n"
    [c] = daemon.clone("t")
    assert daemon.sh(c, "echo ok") == "ok\n"


def test_daemon_killed_at_random(daemon):
    """Would catch: what the numbered points miss."""
    rng = random.Random(20)
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 8 2")
    made = 0
    for i in range(12):
        delay = rng.uniform(0, 0.4)
        timer = threading.Timer(delay, lambda: daemon.process.send_signal(signal.SIGKILL))
        timer.start()
        try:
            daemon.freeze("m", f"r{i}")
            made += 1
        except Exception:
            pass
        timer.join()
        daemon.process.wait(60)
        daemon.start()
        assert daemon.sh("m", "memtool check") == "ok 8 2\n", f"after a kill at {delay:.3f} s"
        for name in daemon.templates():
            checks = daemon.api("GET", f"/v1/templates/{name}?verify=true")["checks"]
            assert all(check["ok"] for check in checks), checks
    daemon.freeze("m", "last")
    [c] = daemon.clone("last")
    assert daemon.sh(c, "memtool check") == "ok 8 2\n"


@pytest.mark.parametrize("point", ["spawn-forked", "spawn-noted", "spawn-running"])
def test_daemon_killed_while_starting(daemon, data_disk, point):
    """Would catch: a stopped VM that is taken for a clone that never was, and removed with its disk."""
    daemon.ready_vm(disks=[{"path": data_disk}])
    daemon.sh("m", "mke2fs -q /dev/vda >/dev/null 2>&1; mkdir /mnt; mount /dev/vda /mnt; echo kept > /mnt/f; umount /mnt")
    daemon.freeze("m", "t")
    daemon.api("POST", "/v1/vms/m/stop", {"force": True})
    start_with_fault(daemon, point)
    expect_death(daemon, "POST", "/v1/vms/m/start", None)
    daemon.start()
    if daemon.vm("m")["state"] != "running":
        daemon.api("POST", "/v1/vms/m/start")
    daemon.ready("m")
    assert daemon.sh("m", "mount /dev/vda /mnt; cat /mnt/f") == "kept\n"


def test_host_restarted(daemon):
    """Would catch: a stranger's process that is taken for a VM, and ended with it."""
    daemon.ready_vm()
    pid = daemon.vm("m")["pid"]
    daemon.kill()
    manifest = daemon.dir / "vms/0/vm.json"
    manifest.write_text(re.sub(r'("boot_id" : )"[^"]*"', r'\1"another"', manifest.read_text()))
    daemon.start()
    vm = daemon.vm("m")
    assert vm["state"] == "failed" and "restarted" in vm["reason"]
    os.kill(pid, 0)  # it was left alone
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not qemus_of(daemon.dir), "the stranger's end")
