"""coppice-pager alone: what it says to requests that are wrong, and that none of them ends it."""
import array
import errno
import os
import random
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

PAGER = Path(os.environ["COPPICE_BUILD_ASAN"]) / "src/pager/coppice-pager"
REQUEST = struct.Struct("<IHHIIQQQII")  # magic version type id flags vm image size pid domain
ANSWER = struct.Struct("<IHHIi16Q160s")
MAGIC, VERSION = 0x47505043, 1
HELLO, TEMPLATE_ADD, TEMPLATE_REMOVE, TEMPLATE_LOAD, VM_ADD, VM_REMOVE, EVICT, HOLD, RELEASE, LIMIT, STATS, VM_STATS, \
    TEMPLATE_STATS, QUIT = range(1, 15)
CHUNK = 64 << 10


class Pager:
    def __init__(self, folder):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.path = str(folder / "s")
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.process = subprocess.Popen(
            [PAGER, "--socket-fd", str(self.listener.fileno()), "--store", folder / "store", "--store-bytes", str(8 << 20)],
            pass_fds=[self.listener.fileno()], stderr=subprocess.PIPE, text=True)
        self.connection = self.connect()

    def connect(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(30)
        while True:
            try:
                connection.connect(self.path)
                return connection
            except BlockingIOError:  # its queue is full
                time.sleep(0.01)

    def ask(self, kind, *fds, flags=0, vm=0, image=0, size=0, pid=0, domain=0, version=VERSION):
        """Status, values and text."""
        packet = REQUEST.pack(MAGIC, version, kind, 77, flags, vm, image, size, pid, domain)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.connection.sendmsg([packet], rights)
        answer = ANSWER.unpack(self.connection.recv(1000))
        assert answer[0] == MAGIC and answer[3] == 77
        return answer[4], answer[5:21], answer[21].rstrip(b"\0").decode()


@pytest.fixture
def pager(tmp_path):
    pager = Pager(tmp_path)
    assert pager.ask(HELLO)[:1] == (0,)
    yield pager
    assert pager.ask(QUIT)[0] == 0
    assert pager.process.wait(30) == 0
    log = pager.process.stderr.read()
    assert "Sanitizer" not in log and "runtime error" not in log, log


def file_of(folder, name, size, data=b""):
    path = folder / name
    path.write_bytes(data)
    os.truncate(path, size)
    return os.open(path, os.O_RDWR)


def test_garbage(pager):
    """Would catch: bytes from a confused peer that end the pager, and with it stop every VM."""
    rng = random.Random(3)
    good = REQUEST.pack(MAGIC, VERSION, STATS, 1, 0, 0, 0, 0, 0, 0)
    for i in range(200):
        connection = pager.connect()
        packet = bytearray(good if i % 2 else rng.randbytes(rng.randrange(1, 120)))
        packet[rng.randrange(len(packet))] ^= 1 << rng.randrange(8)
        connection.send(bytes(packet))
        connection.close()
    assert pager.ask(HELLO)[1][0] == pager.process.pid


def test_every_type_with_nothing_in_it(pager):
    """Would catch: a request for what is not there that is not refused."""
    expected = {TEMPLATE_ADD: errno.EINVAL, TEMPLATE_LOAD: errno.ENOENT, VM_ADD: errno.EINVAL, EVICT: errno.ENOENT,
                HOLD: errno.ENOENT, RELEASE: errno.ENOENT, VM_STATS: errno.ENOENT, TEMPLATE_STATS: errno.ENOENT}
    for kind in range(1, 40):
        if kind != QUIT:
            status = pager.ask(kind, vm=5, image=6, size=4096, pid=os.getpid(), domain=7)[0]
            assert status == -expected.get(kind, 0 if kind < QUIT else errno.EOPNOTSUPP), kind
    assert pager.ask(STATS, version=9)[0] == -errno.EPROTONOSUPPORT


def test_templates_that_are_wrong(pager, tmp_path):
    """Would catch: a template of another size, or with sums cut short, that clones would get wrong pages of."""
    size = 4 * CHUNK
    fds = {name: file_of(tmp_path, name, length) for name, length in
           {"image": size, "file": size, "short": size - 1, "sums": 32, "few": 24}.items()}
    add = lambda *names, **more: pager.ask(TEMPLATE_ADD, *[fds[n] for n in names], **{
        "image": 6, "size": size, "domain": 7, **more})[0]
    for domain in (0, 1 << 16):
        assert add("image", domain=domain) == -errno.EINVAL
    assert add("image", size=4097) == -errno.EINVAL
    assert add("image", "file") == -errno.EINVAL
    assert add("image", "short", "sums") == -errno.EINVAL
    assert add("image", "file", "few") == -errno.EINVAL
    assert pager.ask(TEMPLATE_STATS, image=6)[0] == -errno.ENOENT
    assert add("image") == 0 and add("image") == 0
    assert add("image", domain=8) == -errno.EEXIST
    assert add("image", image=9) == -errno.EBUSY  # the domain is another template's
    assert add("image", "file", "sums") == 0
    assert pager.ask(TEMPLATE_REMOVE, image=6)[0] == 0
    assert pager.ask(TEMPLATE_REMOVE, image=6)[0] == 0


def test_altered_template_is_not_loaded(pager, tmp_path):
    """Would catch: bytes that differ from their sums in a template's image."""
    size = 2 * CHUNK
    image, data = file_of(tmp_path, "image", size), file_of(tmp_path, "file", size, b"x" * size)
    sums = file_of(tmp_path, "sums", 16, struct.pack("<QQ", 1, 2))
    assert pager.ask(TEMPLATE_ADD, image, data, sums, image=6, size=size, domain=7)[0] == 0
    status, _, text = pager.ask(TEMPLATE_LOAD, image=6)
    assert status == -errno.EBADMSG and "altered at byte 0" in text
    assert os.pread(image, size, 0) == bytes(size)


def test_vms_that_are_not(pager, tmp_path):
    """Would catch: a shim that lies, hangs up or says nothing, and a pager that waits for it for ever."""
    size = 4 * CHUNK
    image = file_of(tmp_path, "image", size)
    assert pager.ask(TEMPLATE_ADD, image, image=6, size=size, domain=7)[0] == 0
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    add = lambda pid: pager.ask(VM_ADD, theirs.fileno(), vm=5, image=6, size=size, pid=pid)
    assert add(1 << 22)[0] == -errno.ESRCH
    ours.send(b"nonsense")
    assert add(os.getpid())[0] == -errno.EPROTO
    ours.close()
    assert add(os.getpid())[0] < 0
    assert pager.ask(VM_STATS, vm=5)[0] == -errno.ENOENT
    assert pager.ask(TEMPLATE_REMOVE, image=6)[0] == 0
