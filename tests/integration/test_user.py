"""Without root: everything works, with all VMs as the daemon's user."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from coppice import BUILD, IMAGES, Client, minimal_machine

NOBODY = 65534


@pytest.fixture
def place():
    """A folder with the programs and the image that every user can read."""
    place = Path("/tmp") / f"coppice-user-{os.getpid()}"
    place.mkdir(mode=0o755)
    for file in (BUILD / "src/daemon/coppiced", BUILD / "src/shim/libcoppice-shim.so", IMAGES / "minimal/vmlinuz",
                 IMAGES / "minimal/initrd.img"):
        shutil.copy(file, place)
    (place / "home").mkdir(mode=0o700)
    os.chown(place / "home", NOBODY, NOBODY)
    yield place
    shutil.rmtree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_run_freeze_clone_as_nobody(place):
    """Would catch: a step that only root can do and that does not say so."""
    read_end, write_end = os.pipe()
    daemon = subprocess.Popen(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", place / "coppiced", "--dir",
         place / "home/d", "--shim", place / "libcoppice-shim.so", "--ready-fd", str(write_end)],
        pass_fds=[write_end], stdin=subprocess.DEVNULL)
    os.close(write_end)
    with os.fdopen(read_end) as ready:
        assert ready.read() == "ready\n"
    client = Client(place / "home/d")
    try:
        machine = dict(minimal_machine(), name="m", kernel=str(place / "vmlinuz"), initrd=str(place / "initrd.img"))
        vm = client.api("POST", "/v1/vms", machine)
        assert os.stat(f"/proc/{vm['pid']}").st_uid == NOBODY
        with client.console("m") as console:
            console.until(b"coppice# ")
            console.sh("echo x > /tmp/f; memtool fill 8 1")
        client.api("POST", "/v1/vms/m/freeze", {"template": "t"})
        [clone] = client.api("POST", "/v1/templates/t/clone", {})["vms"]
        client.api("POST", f"/v1/vms/{clone['name']}/freeze", {"template": "t2"})
        [nested] = client.api("POST", "/v1/templates/t2/clone", {})["vms"]
        with client.console(nested["name"]) as console:
            assert console.sh("cat /tmp/f; memtool check") == "x\nok 8 1\n"
        stats = client.api("GET", "/v1/stats")["total"]
        assert stats["source"] == "sum of the processes' PSS" and 0 < stats["paid_bytes"] < stats["given_bytes"]
        users = [c for c in client.api("GET", "/v1/doctor")["checks"] if c["name"] == "users"]
        assert users[0]["status"] == "warn"
    finally:
        for vm in client.api("GET", "/v1/vms")["vms"]:
            client.api("DELETE", f"/v1/vms/{vm['name']}?force=true")
        for template in client.api("GET", "/v1/templates")["templates"]:
            client.api("DELETE", f"/v1/templates/{template['name']}")
        daemon.terminate()
        assert daemon.wait(60) == 0
