"""Commands: what they read and write, how they end."""
import errno
import hashlib
import os
import random
import signal
import struct
import time

import wire


def test_output_status_and_environment(host):  # Fails if a stream, the status or the environment is lost.
    status, sig, flags, out, err = host.run(1, ["sh", "-c", "echo out; echo err >&2; echo $A-$HOME; pwd; exit 7"], env=["A=b"], cwd="/tmp")
    assert (status, sig, flags, err) == (7, -1, 0, b"err\n")
    assert out.splitlines() == [b"out", b"b-/root", b"/tmp"]


def test_stdin_comes_back(host):  # Fails if input is not passed on, or its end.
    assert host.run(1, ["cat"], b"hello")[3] == b"hello"


def test_what_can_not_be_started(host):  # Fails if the reason is lost, or the command counts as run.
    code, why = host.run(1, ["/no/such/thing"])
    assert code == errno.ENOENT and "/no/such/thing" in why
    assert host.run(2, ["true"], user="no-such-user")[0] == errno.ENOENT
    code, why = host.run(3, ["true"], cwd="/no/dir")
    assert code == errno.ENOENT and "/no/dir" in why
    host.start(4, ["sleep", "100"])
    assert host.next_of(4)[0] == wire.STARTED
    host.start(4, ["true"])
    assert host.next_of(4)[0] == wire.ERROR


def test_another_user(host):  # Fails if a command keeps root's rights.
    assert host.run(1, ["id", "-un"], user="nobody")[3] == b"nobody\n"
    assert host.run(2, ["id", "-u"], user="65534")[3] == b"65534\n"


def test_signals(host):  # Fails if a signal goes nowhere, or its number is lost.
    host.start(1, ["sleep", "1000"])
    assert host.next_of(1)[0] == wire.STARTED
    host.send(wire.SIGNAL, 1, bytes([signal.SIGTERM]))
    assert host.finish(1)[:2] == (-1, signal.SIGTERM)
    host.start(2, ["sh", "-c", "trap 'echo got; exit 3' USR1; echo on; while :; do sleep 0.05; done"])
    while host.next_of(2)[2] != b"\1on\n":
        pass
    host.send(wire.SIGNAL, 2, bytes([signal.SIGUSR1]))
    assert host.finish(2)[0] == 3
    host.send(wire.SIGNAL, 99, b"\x09")
    host.ping()


def test_no_signal_is_ignored(host):  # Fails if who started the agent decides what a command ignores.
    assert b"SigIgn:\t0000000000000000" in host.run(1, ["cat", "/proc/self/status"])[3]


def test_abandon_kills_the_group(host):  # Fails if a command outlives its client.
    host.start(1, ["sh", "-c", "sleep 1000 & echo $!; wait"])
    while True:
        kind, _, payload = host.next_of(1)
        if kind == wire.DATA:
            break
    pid = int(payload[1:])
    host.send(wire.ABANDON, 1)
    while host.next_of(1)[0] != wire.EXIT:
        pass
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().split()[2] != "Z" and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}") or open(f"/proc/{pid}/stat").read().split()[2] == "Z"


def test_time_limit(host):  # Fails if a command runs on, or its end looks like another.
    status, sig, flags, out, _ = host.run(1, ["sh", "-c", "echo before; sleep 1000"], timeout_ms=300)
    assert (status, sig, flags, out) == (-1, signal.SIGKILL, 1, b"before\n")


def test_a_daemon_left_behind_does_not_hold_the_exit(host):  # Fails if EXIT waits for whoever has the pipe.
    begun = time.monotonic()
    status = host.run(1, ["sh", "-c", "sleep 1000 & echo left"])
    assert status[0] == 0 and status[3] == b"left\n"
    assert time.monotonic() - begun < 30


def test_terminal(host):  # Fails if it is no terminal, has no size, or has no end of file.
    host.start(1, ["sh", "-c", "tty; stty size; trap 'stty size; exit 4' WINCH; read x; echo got $x; while :; do sleep 0.05; done"], tty=(33, 77))
    out = b""
    while b"33 77" not in out:
        out += b"".join(p[1:] for k, _, p in [host.next_of(1)] if k == wire.DATA)
    assert b"/dev/pts/" in out
    host.send(wire.DATA, 1, b"\0word\n")
    while b"got word" not in out:
        out += b"".join(p[1:] for k, _, p in [host.next_of(1)] if k == wire.DATA)
    host.send(wire.RESIZE, 1, struct.pack("<HH", 40, 100))
    status, _, _, out, _ = host.finish(1)
    assert status == 4 and b"40 100" in out
    host.start(2, ["cat"], tty=(24, 80))
    host.send(wire.DATA, 2, b"\0line\n")
    host.send(wire.EOF, 2, b"\0")
    assert host.finish(2)[:2] == (0, -1)
    host.start(3, ["sleep", "1000"], tty=(24, 80))
    assert host.next_of(3)[0] == wire.STARTED
    host.send(wire.DATA, 3, b"\0\x03")  # Ctrl-C, which the terminal turns into a signal
    assert host.finish(3)[1] == signal.SIGINT


def test_no_more_output_than_credit(host):  # Fails if a command that prints much fills the host's memory.
    host.start(1, ["cat", "/dev/zero"])
    got = 0
    while got < wire.WINDOW:
        kind, _, payload = host.next_of(1)
        got += len(payload) - 1 if kind == wire.DATA else 0
    assert got == wire.WINDOW
    for _ in range(20):
        host.ping()
        time.sleep(0.01)
    assert not [f for f in host.frames if f[0] == wire.DATA]
    host.send(wire.CREDIT, 1, struct.pack("<BI", 1, 1000))
    kind, _, payload = host.next_of(1)
    assert kind == wire.DATA and len(payload) == 1001
    host.send(wire.ABANDON, 1)
    assert host.finish(1)[1] == signal.SIGKILL


def test_more_input_than_credit_ends_the_session(host):  # Fails if the agent's memory is the host's to fill.
    host.start(1, ["sleep", "1000"])
    assert host.next_of(1)[0] == wire.STARTED
    for _ in range(80):
        host.send(wire.DATA, 1, b"\0" + bytes(4096))
    host.send(wire.PING, 5)
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()
    assert not host.frames


def test_input_for_a_command_that_does_not_read(host):  # Fails if it blocks others, or credit is lost with its stdin.
    host.start(1, ["sh", "-c", "exec <&-; sleep 0.3; exec sleep 1"])
    sent, credit = 0, wire.WINDOW
    while sent < 3 * wire.WINDOW:
        if credit < 4096:
            kind, _, payload = host.wait(lambda f: f[1] == 1 and f[0] in (wire.CREDIT, wire.EXIT))
            if kind == wire.EXIT:
                break
            credit += struct.unpack("<I", payload[1:])[0]
            continue
        host.send(wire.DATA, 1, b"\0" + bytes(4096))
        sent, credit = sent + 4096, credit - 4096
    host.start(2, ["sleep", "1000"])
    for _ in range(60):
        host.send(wire.DATA, 2, b"\0" + bytes(4096))
    assert host.run(3, ["echo", "still here"])[3] == b"still here\n"


def pump(host, ident, total, chunks):
    """Sends `total` bytes of the chunks through a command and checks that they come back; returns its result."""
    sent = got = 0
    credit, owed = wire.WINDOW, 0
    there, back = hashlib.sha256(), hashlib.sha256()
    ended = False
    while True:
        while credit and sent < total:
            chunk = chunks[sent // 65536 % len(chunks)][:min(credit, total - sent, 65519)]
            there.update(chunk)
            host.send(wire.DATA, ident, b"\0" + chunk)
            sent, credit = sent + len(chunk), credit - len(chunk)
        if sent == total and not ended:
            ended = True
            host.send(wire.EOF, ident, b"\0")
        kind, _, payload = host.next_of(ident)
        if kind == wire.DATA:
            back.update(payload[1:])
            got, owed = got + len(payload) - 1, owed + len(payload) - 1
            if owed > 65536:
                host.send(wire.CREDIT, ident, struct.pack("<BI", 1, owed))
                owed = 0
        elif kind == wire.CREDIT:
            credit += struct.unpack("<I", payload[1:])[0]
            assert credit <= wire.WINDOW
        elif kind == wire.EXIT:
            assert got == sent == total and there.digest() == back.digest()
            return struct.unpack("<ii", payload[:8])


def test_100_mb_both_ways(host):  # Fails if a byte is lost or changed on the way.
    rng = random.Random(1)
    host.start(1, ["cat"])
    assert pump(host, 1, 100_000_000, [rng.randbytes(65519) for _ in range(7)]) == (0, -1)


def test_the_mark_as_output(host):  # Fails if what a command prints can open a session.
    oct_mark = "".join(f"\\{b:03o}" for b in wire.MARK)
    assert host.run(1, ["sh", "-c", f"printf '{oct_mark}COPA'"])[3] == wire.MARK + b"COPA"


def test_the_mark_as_input(host):  # Fails if a program that contains the mark (the agent, say) can't be copied into a guest.
    data = (wire.MARK + wire.MARK[:15] + b"COPA" + wire.MARK * 3 + wire.MARK[15:]) * 500
    assert host.run(1, ["cat"], data)[3] == data


def test_200_at_once(host):  # Fails if outputs are mixed, or a number of commands is too many.
    for i in range(1, 201):
        host.start(i, ["sh", "-c", f"read x; echo {i} $x; head -c {i * 1000} /dev/zero; exit {i % 100}"])
    for i in range(1, 201):
        host.send(wire.DATA, i, b"\0go\n")
        host.send(wire.EOF, i, b"\0")
    for i in range(1, 201):
        status, _, _, out, _ = host.finish(i)
        assert status == i % 100 and out == f"{i} go\n".encode() + bytes(i * 1000)


def test_257_at_once_is_one_too_many(host):  # Fails if their number has no bound.
    for i in range(1, 258):
        host.start(i, ["sleep", "1000"])
    kind, _, payload = host.next_of(257)
    assert kind == wire.ERROR and struct.unpack("<I", payload[:4])[0] == errno.EAGAIN
    host.ping()
    assert host.hello()[0] == wire.HELLO_ACK
    assert host.run(1, ["echo", "free again"])[3] == b"free again\n"
