"""boot, freeze, clone, nested clone, fork, pause, stop, start: with real guests."""
import pytest
from coppice import ApiError, qemus_of


def test_run_and_console(daemon):
    """Would catch: a VM that does not boot, or a console that loses bytes either way."""
    vm = daemon.ready_vm()
    assert vm["state"] == "running" and vm["accel"] == "tcg"
    text = "0123456789abcdef" * 20  # longer than the serial port's FIFO
    assert daemon.sh("m", f"echo {text}") == text + "\n"
    out = daemon.sh("m", "seq 1 2000")
    assert out == "".join(f"{i}\n" for i in range(1, 2001))


def test_freeze_lets_the_vm_go_on(daemon):
    """Would catch: a parent that stands still, restarts, or shares later writes with its template."""
    daemon.ready_vm()
    daemon.sh("m", "echo before > /tmp/f; memtool fill 16 7")
    pid = daemon.vm("m")["pid"]
    result = daemon.freeze("m", "t")
    assert result["vm"]["state"] == "running" and result["vm"]["pid"] == pid
    assert result["freeze"]["window_ms"] > 0
    daemon.sh("m", "echo after > /tmp/f")
    [clone] = daemon.clone("t")
    assert daemon.sh(clone, "cat /tmp/f; memtool check") == "before\nok 16 7\n"
    assert daemon.sh("m", "cat /tmp/f; memtool check") == "after\nok 16 7\n"


def test_freeze_and_stop(daemon):
    """Would catch: a VM that stays behind as a process or in ps."""
    daemon.ready_vm()
    daemon.sh("m", "echo x > /tmp/f")
    assert daemon.freeze("m", "t", stop=True)["vm"] is None
    assert daemon.vms() == {} and qemus_of(daemon.dir) == []
    [clone] = daemon.clone("t")
    assert daemon.sh(clone, "cat /tmp/f") == "x\n"


def test_nested_clones(daemon):
    """Would catch: a clone's template that lacks its private pages, or has its parent's later ones."""
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 8 1; echo 1 > /tmp/level")
    daemon.freeze("m", "t1")
    [a] = daemon.clone("t1")
    daemon.sh(a, "echo 2 > /tmp/level; dd if=/dev/urandom of=/tmp/r bs=1M count=4 2>/dev/null")
    sums = daemon.sh(a, "md5sum /tmp/r")
    daemon.freeze(a, "t2")
    daemon.sh(a, "echo x > /tmp/r; echo 3 > /tmp/level")
    [b] = daemon.clone("t2")
    assert daemon.sh(b, "cat /tmp/level; memtool check; md5sum /tmp/r") == f"2\nok 8 1\n{sums}"
    daemon.freeze(a, "t3")  # a parent that was frozen as a clone, once more
    [c] = daemon.clone("t3")
    assert daemon.sh(c, "cat /tmp/level /tmp/r; memtool check") == "3\nx\nok 8 1\n"
    assert daemon.templates()["t2"]["parent"] == "t1"
    assert daemon.templates()["t3"]["parent"] == "t2"
    [d] = daemon.clone("t1")
    assert daemon.sh(d, "cat /tmp/level") == "1\n"


def test_fork(daemon):
    """Would catch: children that are not the parent's copy, or a fork's template that stays."""
    daemon.ready_vm()
    daemon.sh("m", "echo parent > /tmp/f")
    answer = daemon.api("POST", "/v1/vms/m/fork", {"count": 3})
    names = [vm["name"] for vm in answer["vms"]]
    assert len(names) == 3 and answer["template"]["ephemeral"]
    for name in names:
        assert daemon.sh(name, "cat /tmp/f; echo $HOSTNAME-child > /tmp/f") == "parent\n"
    assert daemon.sh("m", "cat /tmp/f") == "parent\n"
    for name in [*names, "m"]:
        assert daemon.templates(), "the fork's template is needed while one of its VMs is there"
        daemon.api("DELETE", f"/v1/vms/{name}?force=true")
    assert daemon.templates() == {}


def test_clone_of_booted_vm_is_not_touched_by_fork_of_fork(daemon):
    """Would catch: layers that are mixed up when parents and children fork in turn."""
    daemon.ready_vm()
    line = ["m"]
    for level in range(4):
        daemon.sh(line[-1], f"echo {level} >> /tmp/levels")
        answer = daemon.api("POST", f"/v1/vms/{line[-1]}/fork", {"names": [f"c{level}"]})
        line.append(answer["vms"][0]["name"])
    for depth, name in enumerate(line):
        expected = "".join(f"{i}\n" for i in range(min(depth + 1, 4)))
        assert daemon.sh(name, "cat /tmp/levels") == expected


def test_sixteen_clones_at_once(daemon):
    """Would catch: clones that share memory, or a start that goes wrong under load."""
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 16 3")
    daemon.freeze("m", "t")
    names = daemon.clone("t", 16)
    assert len(set(names)) == 16
    for name in names:
        daemon.sh(name, f"echo {name} > /tmp/me")
    for name in names:
        assert daemon.sh(name, "cat /tmp/me; memtool check") == f"{name}\nok 16 3\n"
    stats = daemon.api("GET", "/v1/stats")
    assert stats["total"]["vms"] == 17
    assert stats["total"]["given_bytes"] == 17 * (128 << 20)
    for vm in stats["vms"]:
        assert vm["memory"]["private_bytes"] < vm["memory"]["given_bytes"] // 2


def test_pause_and_resume(daemon):
    """Would catch: a pause that is none, or a guest that is lost by it."""
    daemon.ready_vm()
    assert daemon.api("POST", "/v1/vms/m/pause")["state"] == "paused"
    assert daemon.vm("m")["state"] == "paused"
    daemon.freeze("m", "t")
    assert daemon.vm("m")["state"] == "paused", "a freeze does not wake a paused VM"
    assert daemon.api("POST", "/v1/vms/m/resume")["state"] == "running"
    assert daemon.sh("m", "echo hello") == "hello\n"
    [clone] = daemon.clone("t", paused=True)
    assert daemon.vm(clone)["state"] == "paused"
    daemon.api("POST", f"/v1/vms/{clone}/resume")
    assert daemon.sh(clone, "echo hello") == "hello\n"


def test_stop_start_remove(daemon):
    """Would catch: a stop that never ends, a start that finds nothing, a removal that leaves files."""
    daemon.ready_vm()
    stopped = daemon.api("POST", "/v1/vms/m/stop", {"timeout_s": 60})
    assert (stopped["state"], stopped["reason"]) == ("stopped", "the guest powered off")
    assert daemon.api("POST", "/v1/vms/m/start")["state"] == "running"
    daemon.ready("m")
    with pytest.raises(ApiError, match="is running") as refused:
        daemon.api("DELETE", "/v1/vms/m")
    assert refused.value.code == "wrong-state"
    daemon.api("POST", "/v1/vms/m/pause")
    stopped = daemon.api("POST", "/v1/vms/m/stop", {"force": True})
    assert (stopped["state"], stopped["reason"]) == ("stopped", "stopped by force")
    daemon.api("DELETE", "/v1/vms/m")
    assert daemon.files() == set()


def test_guest_that_ignores_the_power_button(daemon):
    """Would catch: a stop that waits for ever for a guest that does not listen."""
    daemon.run_minimal()  # not booted yet: nobody listens to the button
    stopped = daemon.api("POST", "/v1/vms/m/stop", {"timeout_s": 0})
    assert stopped["state"] == "stopped" and "force" in stopped["reason"]


def test_reboot_of_a_kernel_clone(daemon):
    """Would catch: a clone without a kernel that reboots into nothing and says nothing."""
    daemon.ready_vm()
    daemon.freeze("m", "t")
    [clone] = daemon.clone("t")
    with daemon.console(clone) as console:
        console.send(b"reboot -f\n")
        vm = daemon.wait_state(clone, "stopped")
    assert "rebooted" in vm["reason"]
    daemon.api("POST", f"/v1/vms/{clone}/start")
    daemon.ready(clone)
