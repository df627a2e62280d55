"""Sessions, versions, and finding each other again after a cut."""
import os
import struct
import time

import pytest
import wire


def test_hello_is_answered_with_what_the_agent_is(machine):  # Fails if the daemon can't know whom it talks to.
    kind, r = machine.host.hello()
    assert kind == wire.HELLO_ACK
    session, proto, low, high, pid = r.ints("QHHHI")
    assert (session, proto, low, high) == (machine.host.session, 1, 1, 1)
    assert pid == machine.process.pid
    assert r.text() == "0.1.0" and len(r.text()) == 36
    r.end()


@pytest.mark.parametrize("low, high, who", [(2, 9, "the agent is too old"), (0, 0, "the host is too old")])
def test_no_common_version_is_refused(machine, low, high, who):  # Fails if versions are mixed, or silence is the answer.
    kind, r = machine.host.hello(low, high)
    assert kind == wire.REFUSED
    r.ints("QHH")
    assert who in r.text()
    machine.host.send(wire.PING, 1)
    assert machine.host.hello()[0] == wire.HELLO_ACK
    machine.host.ping()
    assert not machine.host.frames, "something was done in a session that was refused"


def test_a_newer_host_is_met_half_way(machine):  # Fails if a range is not compared as one.
    kind, r = machine.host.hello(0, 200)
    assert kind == wire.HELLO_ACK and r.ints("QH")[1] == 1


@pytest.mark.parametrize("cut", [0, 1, 8, 15, 16, 17, 30, 1000, 40000])
def test_a_frame_cut_anywhere_ends_at_the_next_mark(host, cut):  # Fails if a clone's agent waits for the rest of the template's frame.
    host.raw(host.frame(wire.EXEC, 5, bytes(60000))[:cut])
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()


@pytest.mark.parametrize("cut", range(1, 57, 5))
def test_a_hello_cut_anywhere_is_followed_by_another(host, cut):  # Fails if the matcher forgets to begin anew.
    host.raw(host.hello_bytes(12345)[:cut])
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()


@pytest.mark.parametrize("junk", [b"\xf5" * 40, wire.MARK[:15] * 3, wire.MARK, wire.MARK + wire.MARK[:7], b"COPA" * 9, bytes(70000)], ids=range(6))
def test_junk_before_the_mark(host, junk):  # Fails if a mark that overlaps with junk is missed.
    host.raw(junk)
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()


@pytest.mark.parametrize("bad", [
    b"X" * 16,
    wire.MAGIC + struct.pack("<IIHBB", 1, 1, 65521, wire.PING, 0),
    wire.MAGIC + struct.pack("<IIHBB", 1, 1, 0, wire.PING, 1),
    wire.MAGIC + struct.pack("<IIHBB", 1, 1, 0, 0, 0)], ids=range(4))
def test_no_frame_ends_the_session(host, bad):  # Fails if the agent goes on with a host whose bytes it can't read.
    host.raw(bad)
    host.send(wire.PING, 9)
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()
    assert not host.frames


@pytest.mark.parametrize("kind, payload", [
    (wire.EXEC, b""), (wire.EXEC, bytes(12)), (wire.EXEC, os.urandom(3000)), (wire.DATA, b"\0"), (wire.DATA, b"\1x"), (wire.EOF, b"\3"),
    (wire.CREDIT, struct.pack("<BI", 1, 0)), (wire.CREDIT, struct.pack("<BI", 1, 1 << 31)), (wire.SIGNAL, b"\0"), (wire.SIGNAL, b"\x41"),
    (wire.RESIZE, b"12345"), (wire.QUIESCE, bytes(4)), (wire.HOLD, bytes(4)), (wire.IDENTIFY, bytes(200)), (wire.PING, b"x"), (wire.THAW, b"x")], ids=range(16))
def test_a_wrong_message_ends_the_session(host, kind, payload):  # Fails if a decoder takes what it should not, or the agent dies of it.
    host.send(kind, 5, payload)
    host.send(wire.PING, 9)
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()
    assert not host.frames


def test_frames_of_another_session_and_unknown_types_are_ignored(host):  # Fails if stale bytes run a command.
    host.raw(host.frame(wire.PING, 3, session=host.session ^ 1))
    host.send(200, 4, b"later")
    host.ping()
    assert not host.frames


def test_a_new_session_kills_the_old_ones_commands(machine, host):  # Fails if a clone goes on with what the template's owner ran.
    pid_file = machine.root + "/pid"
    host.start(1, ["sh", "-c", f"echo $$ >{pid_file}; exec sleep 1000"])
    assert host.next_of(1)[0] == wire.STARTED
    end = time.monotonic() + 20
    while not (os.path.exists(pid_file) and os.path.getsize(pid_file)) and time.monotonic() < end:
        time.sleep(0.01)
    pid = int(machine.read("/pid"))
    assert host.hello()[0] == wire.HELLO_ACK
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
    host.ping()
    assert not host.frames
    assert host.run(1, ["echo", "again"])[3] == b"again\n", "its id is free again"


def test_a_clones_session_leaves_commands_alone(machine, host):  # Fails if fork() ends who called it, or an orphan blocks, or is heard.
    script = f"yes | head -c 2000000; cat; echo error >&2; echo end >{machine.root}/end; sleep 0.2; echo late"
    host.start(1, ["sh", "-c", script])
    assert host.next_of(1)[0] == wire.STARTED
    host.start(2, ["sh", "-c", f"echo $$ >{machine.root}/pid; exec sleep 1000"], tty=(10, 20))
    assert host.next_of(2)[0] == wire.STARTED
    end = time.monotonic() + 20
    while not (os.path.exists(machine.root + "/pid") and machine.read("/pid")) and time.monotonic() < end:
        time.sleep(0.01)
    assert host.hello(flags=1)[0] == wire.HELLO_ACK
    while not (os.path.exists(machine.root + "/end") and machine.read("/end")) and time.monotonic() < end:
        time.sleep(0.01)
    assert machine.read("/end") == "end\n"
    while os.path.exists(f"/proc/{int(machine.read('/pid'))}") and time.monotonic() < end:
        time.sleep(0.01)
    assert time.monotonic() < end, "a terminal's is hung up"
    assert host.run(1, ["sh", "-c", "sleep 0.5; echo again"])[3] == b"again\n", "its id is free again"
    host.ping()
    assert not host.frames
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()


def test_a_host_that_goes_and_comes(machine, host):  # Fails if the agent does not connect again, or sends no READY.
    host.sock.close()
    again = machine.host = wire.Host(machine.server.accept()[0])
    end = time.monotonic() + 10
    while wire.MARK not in again.data and time.monotonic() < end:
        again.hunting = True
        try:
            again.data += again.sock.recv(1 << 20)
        except BlockingIOError:
            time.sleep(0.01)
    zeros, ready = again.data.split(wire.MARK)
    assert len(zeros) == 65536 and not any(zeros)
    assert ready == wire.MAGIC + struct.pack("<IIHBB", 0, 0, 0, wire.READY, 0)
    assert again.hello()[0] == wire.HELLO_ACK
    again.ping()


def test_a_host_that_does_not_read(host):  # Fails if the queue overflows, or memory grows with it.
    for _ in range(40):
        host.sock.setblocking(True)
        host.sock.settimeout(0.2)
        try:
            host.sock.sendall(host.frame(wire.PING, 0) * 2000)
        except TimeoutError:
            break
    else:
        pytest.fail("all was taken")
    host.sock.setblocking(False)
    host.session = 77  # its sending was cut somewhere
    host.frames = []
    assert host.hello()[0] == wire.HELLO_ACK
    host.ping()
