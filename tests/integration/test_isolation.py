"""Two clones and their template: nobody sees what another writes, in memory or on disk."""
import hashlib
import json
import os
import re

import pytest
from coppice import expect_image_untouched


@pytest.fixture
def data_disk(tmp_path):
    disk = tmp_path / "data.raw"
    disk.touch()
    os.truncate(disk, 64 << 20)
    return disk


def mount_new(daemon, name):
    assert daemon.sh(name, "mke2fs -q /dev/vda >/dev/null 2>&1; mkdir -p /mnt; mount /dev/vda /mnt && echo ok") == "ok\n"


def template_digest(daemon, name):
    """Checksum of every byte that a template owns: files, disk layers, RAM image in memory."""
    digest = hashlib.sha256()
    folder = daemon.dir / "templates" / name
    manifest = json.loads((folder / "template.json").read_text())
    layers = [layer for disk in manifest["machine"]["disks"] for layer in disk["layers"]]
    # The pager notes in ram.first what clones touch first, and lets cold pages of the image leave.
    parts = [p for p in sorted(folder.iterdir()) if p.name != "ram.first"]
    parts += [daemon.dir / "disks" / layer["path"] for layer in layers if not layer["external"]]
    expect_image_untouched(daemon, name)
    if manifest["machine"]["engine"] == "kernel":
        parts += [daemon.ram_dir() / manifest["ram_id"]]
    for part in parts:
        digest.update(part.name.encode() + hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def test_memory_and_disk_of_clones_are_their_own(daemon, data_disk):
    """Would catch: a shared page or disk block that one clone writes and another reads."""
    daemon.ready_vm(disks=[{"path": str(data_disk)}])
    mount_new(daemon, "m")
    daemon.sh("m", "echo template > /mnt/who; echo template > /tmp/who; memtool fill 16 5; sync")
    image_before = hashlib.sha256(data_disk.read_bytes()).hexdigest()
    daemon.freeze("m", "t")
    before = template_digest(daemon, "t")
    a, b = daemon.clone("t", 2)
    for name in (a, b, "m"):
        assert daemon.sh(name, "cat /mnt/who /tmp/who; memtool check") == "template\ntemplate\nok 16 5\n"
    for name in (a, b, "m"):
        daemon.sh(name, f"echo {name} > /mnt/who; echo {name} > /tmp/who; "
                        "dd if=/dev/urandom of=/mnt/noise bs=1M count=8 2>/dev/null; sync")
    # Drop the caches: what is read now comes from the disks.
    for name in (a, b, "m"):
        out = daemon.sh(name, "echo 3 > /proc/sys/vm/drop_caches; cat /mnt/who /tmp/who; memtool check")
        assert out == f"{name}\n{name}\nok 16 5\n"
    assert template_digest(daemon, "t") == before
    [late] = daemon.clone("t")
    assert daemon.sh(late, "cat /mnt/who /tmp/who") == "template\ntemplate\n"
    assert hashlib.sha256(data_disk.read_bytes()).hexdigest() == image_before, "a user's image is never written"


def test_disk_survives_stop_start_and_freezes(daemon, data_disk):
    """Would catch: layers that get lost or out of order between freezes, stops and restarts."""
    daemon.ready_vm(disks=[{"path": str(data_disk), "format": "raw"}])
    mount_new(daemon, "m")
    for i in range(3):
        daemon.sh("m", f"echo {i} >> /mnt/log; sync")
        daemon.freeze("m", f"t{i}")
    daemon.sh("m", "echo last >> /mnt/log; sync")
    daemon.api("POST", "/v1/vms/m/stop", {"timeout_s": 60})
    daemon.api("POST", "/v1/vms/m/start")
    daemon.ready("m")
    assert daemon.sh("m", "mount /dev/vda /mnt; cat /mnt/log") == "0\n1\n2\nlast\n"
    [c] = daemon.clone("t1")
    assert daemon.sh(c, "cat /mnt/log") == "0\n1\n"
    # Templates go one by one, also in the middle of the chain; what stands on them stays whole.
    daemon.api("DELETE", "/v1/templates/t0")
    daemon.api("DELETE", "/v1/templates/t2")
    assert daemon.sh(c, "echo 3 > /proc/sys/vm/drop_caches; cat /mnt/log") == "0\n1\n"
    [d] = daemon.clone("t1")
    assert daemon.sh(d, "echo 3 > /proc/sys/vm/drop_caches; cat /mnt/log") == "0\n1\n"


def test_template_written_while_guest_writes(daemon, data_disk):
    """Would catch: a freeze whose memory, device state and disk are not of one instant."""
    daemon.ready_vm(disks=[{"path": str(data_disk)}])
    mount_new(daemon, "m")
    # A counter that is written to memory and disk, each write followed by the other.
    daemon.sh("m", "(i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/n; echo $i > /mnt/new; mv /mnt/new /mnt/n; sync; done) >/dev/null 2>&1 & true")
    for i in range(4):
        daemon.freeze("m", f"t{i}")
        [clone] = daemon.clone(f"t{i}")
        out = daemon.sh(clone, "kill $!; sleep 0.1; sync; echo 3 > /proc/sys/vm/drop_caches; echo v=$(cat /tmp/n),$(cat /mnt/n).")
        memory, disk = (int(n or 0) for n in re.search(r"v=(\d+),(\d*)\.", out).groups())
        assert memory - disk in (0, 1), f"memory has {memory}, disk has {disk}"
        daemon.api("DELETE", f"/v1/vms/{clone}?force=true")


def test_template_survives_loss_of_memory(daemon):
    """Would catch: a template that needs the RAM image in memory, as after a restart of the host."""
    daemon.ready_vm()
    daemon.sh("m", "memtool fill 16 9")
    daemon.freeze("m", "t", stop=True)
    daemon.kill()
    for image in daemon.ram_dir().iterdir():
        image.unlink()
    daemon.start()
    assert daemon.templates()["t"]["resident_bytes"] == 0
    [c] = daemon.clone("t")
    assert daemon.sh(c, "memtool check") == "ok 16 9\n"
    assert daemon.templates()["t"]["resident_bytes"] > 0
