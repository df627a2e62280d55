"""The agent's protocol as docs/formats/agent.md has it, written a second time: a host for tests."""
import os
import select
import socket
import struct
import time

MARK = bytes.fromhex("f59ec17be28dfa16b3d86f95ee21a4dc")
MAGIC = b"COPA"
HELLO, EXEC, SIGNAL, RESIZE, ABANDON, IDENTIFY, QUIESCE, THAW, RESPONSE, PING, HOLD = range(1, 12)
DATA, EOF, CREDIT = 32, 33, 34
READY, HELLO_ACK, REFUSED, STARTED, EXIT, ERROR, IDENTIFIED, QUIESCED, THAWED, REQUEST, PONG, HELD = range(64, 76)
WINDOW = 256 * 1024
RESULTS = ("done", "skipped", "failed", "timeout")


def text(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<H", len(raw)) + raw + b"\0"


def texts(items):
    return struct.pack("<H", len(items)) + b"".join(text(i) for i in items)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data), "short message"
        self.at += n
        return self.data[self.at - n:self.at]

    def ints(self, fmt):
        return struct.unpack("<" + fmt, self.take(struct.calcsize("<" + fmt)))

    def text(self):
        raw = self.take(self.ints("H")[0] + 1)
        assert raw.endswith(b"\0") and b"\0" not in raw[:-1]
        return raw[:-1].decode(errors="replace")

    def texts(self):
        return [self.text() for _ in range(self.ints("H")[0])]

    def end(self):
        assert self.at == len(self.data), "trailing bytes"


class Host:
    """One end of a stream; every wait has a limit of its own."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.setblocking(False)
        self.session = 0
        self.data = b""
        self.hunting = True
        self.frames = []  # (type, id, payload) not asked for yet

    def raw(self, data, timeout=30):
        end = time.monotonic() + timeout
        view = memoryview(data)
        while view:
            left = end - time.monotonic()
            assert left > 0, "the agent does not read"
            readable, writable, _ = select.select([self.sock], [self.sock], [], left)
            if readable:
                self.fill()  # or both might wait for each other
            if writable:
                view = view[self.sock.send(view[:65536]):]

    def frame(self, kind, ident, payload=b"", session=None):
        low = (self.session if session is None else session) & 0xffffffff
        return MAGIC + struct.pack("<IIHBB", low, ident, len(payload), kind, 0) + payload

    def send(self, kind, ident, payload=b""):
        self.raw(self.frame(kind, ident, payload))

    def hello_bytes(self, number, low=1, high=1, flags=0):
        body = struct.pack("<QQHHI", number, number ^ (2**64 - 1), low, high, flags)
        if flags & 1:  # a clone's
            body += os.urandom(64)
        return MARK + self.frame(HELLO, 0, body, number)

    def hello(self, low=1, high=1, flags=0):
        """Opens a session; returns the answer's payload reader and type."""
        self.session = int.from_bytes(os.urandom(8), "little") | 1
        self.hunting, self.frames = True, []
        self.raw(self.hello_bytes(self.session, low, high, flags))
        kind, _, payload = self.wait(lambda f: f[0] in (HELLO_ACK, REFUSED))
        return kind, Reader(payload)

    def fill(self):
        try:
            got = self.sock.recv(1 << 20)
        except BlockingIOError:
            return
        if not got:
            raise ConnectionError("the agent is gone")
        self.data += got
        self.parse()

    def parse(self):
        at = 0
        while True:
            if self.hunting:
                found = self.data.find(MARK, at)
                if found < 0:
                    at = max(at, len(self.data) - len(MARK) + 1)
                    break
                if len(self.data) < found + 32:
                    at = found
                    break
                at = found + 16
            if self.data[at:at + 16] == MARK:
                raise ConnectionError("another agent")
            if len(self.data) < at + 16:
                break
            session, ident, length, kind, zero = struct.unpack("<IIHBB", self.data[at + 4:at + 16])
            assert self.data[at:at + 4] == MAGIC and zero == 0, f"no header: {self.data[at:at + 16]!r}"
            if len(self.data) < at + 16 + length:
                if self.hunting:
                    at -= 16
                break
            payload = self.data[at + 16:at + 16 + length]
            at += 16 + length
            if self.hunting:
                if kind in (HELLO_ACK, REFUSED) and struct.unpack("<Q", payload[:8])[0] == self.session:
                    self.hunting = False
                    self.frames.append((kind, ident, payload))
                continue
            if session == self.session & 0xffffffff:
                self.frames.append((kind, ident, payload))
        self.data = self.data[max(at, 0):]

    def wait(self, wanted, timeout=30):
        """The first frame that is wanted; others stay for later."""
        end = time.monotonic() + timeout
        seen = 0
        while True:
            for i in range(seen, len(self.frames)):
                if wanted(self.frames[i]):
                    return self.frames.pop(i)
            seen = len(self.frames)
            left = end - time.monotonic()
            assert left > 0, f"nothing came that is wanted; there are {[(f[0], f[1]) for f in self.frames][:20]}"
            select.select([self.sock], [], [], left)
            self.fill()

    def next_of(self, ident, timeout=30):
        return self.wait(lambda f: f[1] == ident, timeout)

    def ping(self):
        self.send(PING, 0xfffffff0)
        self.wait(lambda f: f[0] == PONG and f[1] == 0xfffffff0)

    def start(self, ident, argv, env=(), user="", cwd="", tty=None, timeout_ms=0, cpu_percent=0, memory_max=0):
        rows, columns = tty or (0, 0)
        self.send(EXEC, ident, struct.pack("<IHHIIQ", 1 if tty else 0, rows, columns, timeout_ms, cpu_percent, memory_max)
                  + text(user) + text(cwd) + texts(argv) + texts(env))

    def input(self, ident, data):
        """Input for a command, as the host has to send it: with no mark in any frame."""
        at = 0
        while at < len(data):
            found = data.find(MARK, at, at + 65519)
            end = found + 15 if found >= 0 else min(at + 65519, len(data))
            self.send(DATA, ident, b"\0" + data[at:end])
            at = end

    def finish(self, ident, timeout=60):
        """Reads all of a command, giving credit; returns (status, signal, flags, stdout, stderr), or (errno, text)."""
        out = {1: [], 2: []}
        while True:
            kind, _, payload = self.next_of(ident, timeout)
            if kind == DATA:
                out[payload[0]].append(payload[1:])
                self.send(CREDIT, ident, struct.pack("<BI", payload[0], len(payload) - 1))
            elif kind == EXIT:
                r = Reader(payload)
                status, signal, flags = r.ints("iiI")
                r.end()
                return status, signal, flags, b"".join(out[1]), b"".join(out[2])
            elif kind == ERROR:
                r = Reader(payload)
                return r.ints("I")[0], r.text()
            else:
                assert kind in (STARTED, EOF, CREDIT), kind

    def run(self, ident, argv, stdin=b"", **more):
        self.start(ident, argv, **more)
        self.input(ident, stdin)
        self.send(EOF, ident, b"\0")
        return self.finish(ident)

    def identify(self, ident=7, index=0, count=1, hook_ms=2000, net_ms=2000, name="c-1", template="t", hostname="", machine_id="",
                 params=(), nics=(), flags=0, rand=None, wall_ns=None):
        wall_ns = time.time_ns() if wall_ns is None else wall_ns
        self.send(IDENTIFY, ident, struct.pack("<IIIIIQ", flags, index, count, hook_ms, net_ms, wall_ns)
                  + (rand or os.urandom(64)) + text(name) + text(template) + text(hostname) + text(machine_id) + texts(params)
                  + bytes([len(nics)]) + b"".join(bytes([i]) + old + new for i, old, new in nics))

    def identified(self, ident=7, timeout=60):
        """{step's name: (result, text)}, in order."""
        kind, _, payload = self.next_of(ident, timeout)
        assert kind == IDENTIFIED, (kind, payload)
        r = Reader(payload)
        steps = {}
        for _ in range(r.ints("B")[0]):
            result, _took = r.ints("BI")
            name = r.text()
            steps[name] = (RESULTS[result], r.text())
        r.end()
        return steps


def listen(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(4)
    server.settimeout(20)
    return server
