"""The real desktop: booted, frozen, cloned; each clone's screen shows its own name."""
import io
import json
import re
import subprocess

from coppice import IMAGES
from PIL import Image
from screen_text import read_name


def screen(daemon, name):
    status, kind, data = daemon.request("GET", f"/v1/vms/{name}/screenshot")
    assert (status, kind) == (200, "image/png")
    return Image.open(io.BytesIO(data)).convert("RGB")


def test_four_desktops(daemon):
    """Would catch: a disk image that does not boot, a screen, disk or memory that clones share."""
    image = IMAGES / "desktop"
    before = subprocess.run(["sha256sum", image / "disk.qcow2"], capture_output=True, check=True).stdout
    manifest = json.loads((image / "image.json").read_text())
    daemon.api("POST", "/v1/vms", {"name": "desktop", "disks": [{"path": str(image / manifest["disk"])}],
                                   "memory_bytes": manifest["memory_bytes"], "display": "vga", "accel": "tcg"})
    with daemon.console("desktop") as console:
        console.ws.settimeout(400)
        console.until(b"coppice: desktop ready")
    times = daemon.freeze("desktop", "desk")["freeze"]
    # No time is asserted; that the parts lie within the window is.
    assert 0 < times["disks_ms"] + times["state_ms"] + times["ram_ms"] < times["window_ms"] < times["total_ms"]
    names = daemon.clone("desk", 4)
    for name in names:
        assert daemon.sh(name, f"coppice-show {name}; hostname") .splitlines()[-1] == name
        daemon.sh(name, f"echo {name} > /root/me; sync")
    assert {name: read_name(screen(daemon, name)) for name in [*names, "desktop"]} == {
        **{name: name for name in names}, "desktop": "desktop"}
    for name in names:
        assert daemon.sh(name, "echo 3 > /proc/sys/vm/drop_caches; cat /root/me").split() == [name]
    [late] = daemon.clone("desk")
    assert "No such file" in daemon.sh(late, "cat /root/me")
    assert read_name(screen(daemon, late)) == "desktop"
    used = {vm["name"]: vm["memory"] for vm in daemon.api("GET", "/v1/stats")["vms"]}
    for name in names:
        assert used[name]["private_bytes"] < manifest["memory_bytes"] // 8
    # Forking one of them: the child has what its parent has.
    child = daemon.api("POST", f"/v1/vms/{names[0]}/fork", {"count": 1})["vms"][0]["name"]
    assert read_name(screen(daemon, child)) == names[0]
    assert daemon.sh(child, "cat /root/me").split() == [names[0]]
    stopped = daemon.api("POST", f"/v1/vms/{names[1]}/stop", {"timeout_s": 120})
    assert stopped["reason"] == "the guest powered off"
    assert re.match(r"[0-9a-f]{64}", before.decode())
    assert subprocess.run(["sha256sum", image / "disk.qcow2"], capture_output=True).stdout == before
