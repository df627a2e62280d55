# SPDX-License-Identifier: MIT
"""The console on a terminal and on pipes, the VNC proxy: WebSockets against the peer."""
import contextlib
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import threading

import pytest

from fake_daemon import vm

PATH = "/v1/vms/desk/console"


class Terminal:
    """A pseudo terminal with the client on it."""

    def __init__(self, coppice, *args):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = coppice.popen(*args, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                     start_new_session=True)
        self.seen = b""

    def read_until(self, text):
        while text not in self.seen:
            assert select.select([self.master], [], [], 30)[0], self.seen
            self.seen += os.read(self.master, 4096)

    def wait(self):
        status = self.process.wait(30)
        assert termios.tcgetattr(self.slave) == self.before
        return status


def shout(ws):
    """Says hello, then gives back in capitals what it gets."""
    ws.send(b"hello\r\n")
    while (data := ws.recv()) is not None:
        ws.send(data.upper())


# Catches: keys that are not sent one by one, a Ctrl-C that ends the client, an escape key that does not
# leave or is sent to the guest, a terminal that stays raw.
@pytest.mark.parametrize("args, key, name", [([], b"\x1d", b"Ctrl-]"), (["--escape", "^A"], b"\x01", b"Ctrl-A"),
                                             (["-e", "~"], b"~", b"'~'")])
def test_escape_key(coppice, daemon, args, key, name):
    got = []
    daemon.websockets[PATH] = lambda ws: (ws.send(b"\x1b[1mhello"), got.append(ws.recv_until(b"\xff")))
    tty = Terminal(coppice, "console", "desk", *args)
    tty.read_until(b"\x1b[1mhello")
    assert name + b" leaves it" in tty.seen
    assert not termios.tcgetattr(tty.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    os.write(tty.master, b"ab\x03\r" + key + b"never")
    assert tty.wait() == 0
    assert got == [b"ab\x03\r"]


# Catches: a terminal that stays raw after a signal, or a signal that is swallowed.
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT])
def test_signal_restores_the_terminal(coppice, daemon, number):
    daemon.websockets[PATH] = shout
    tty = Terminal(coppice, "console", "desk")
    tty.read_until(b"hello")
    tty.process.send_signal(number)
    assert tty.wait() == -number


# Catches: a client that hangs, or leaves the terminal raw, when the VM or the daemon ends.
@pytest.mark.parametrize("script, says, status", [
    (lambda ws: (ws.send(b"bye"), ws.close()), b"coppice: the VM has ended", 0),
    (lambda ws: ws.send(b"bye"), b"the connection to coppiced was lost", 1)])
def test_far_side_ends(coppice, daemon, script, says, status):
    daemon.websockets[PATH] = script
    tty = Terminal(coppice, "console", "desk")
    tty.read_until(says)
    assert b"bye" in tty.seen and tty.wait() == status


# Catches: --until on a terminal that waits for the end of its input.
def test_until_on_a_terminal(coppice, daemon):
    daemon.websockets[PATH] = shout
    tty = Terminal(coppice, "console", "desk", "--until", "hello")
    assert tty.wait() == 0


# Catches: piped input that is cut, an escape key that is obeyed in it, --until that leaves before all was sent.
def test_pipe(coppice, daemon):
    got = []

    def script(ws):
        ws.send(b"ready")
        got.append(ws.recv_until(b"END"))
        ws.send(b"fini")
        ws.send(b"shed")
        ws.recv()

    daemon.websockets[PATH] = script
    data = b"\x1d\x00" + bytes(range(256)) * 1000 + b"END"
    result = coppice("console", "desk", "--until", "finished", "--timeout", "50", input=data)
    assert got == [data] and result.stdout == b"readyfinished" and result.err == ""
    answer = coppice.json("console", "desk", "--until", "ready", input=data)
    assert answer["found"] and answer["output"].startswith("ready") and got == [data, data]


# Catches: a text that is not seen but counts, a time limit that does not end the wait.
def test_until_not_seen(coppice, daemon):
    daemon.websockets[PATH] = lambda ws: (ws.send(b"finis"), ws.close())
    assert "did not print 'finished'\n" in coppice("console", "desk", "--until", "finished", status=1).err
    daemon.websockets[PATH] = shout
    result = coppice("console", "desk", "--until", "finished", "--timeout", "1", status=1)
    assert "did not print 'finished' within 1 s\n" in result.err
    assert not coppice.json("console", "desk", "--until", "x", "--timeout", "1", status=1)["found"]


# Catches: the reason for a refused WebSocket that is lost.
def test_refused(coppice, daemon):
    daemon.on(f"GET {PATH}", 409, {"error": {"code": "wrong-state", "message": "it is off", "hint": "start it"}})
    assert coppice("console", "desk", status=1).err == "coppice: it is off\n  hint: start it\n"


# Catches: a proxy that mixes connections up, loses bytes, dies with one of them, or does not end.
def test_vnc_proxy(coppice, daemon):
    daemon.on("GET /v1/vms/desk", 200, vm())
    daemon.websockets["/v1/vms/desk/vnc"] = shout
    process = coppice.popen("vnc", "desk", "--proxy", "0", stdout=subprocess.PIPE, text=True)
    host, port = process.stdout.readline().split(":")
    assert host == "127.0.0.1"
    sockets = [socket.create_connection((host, int(port)), 30) for _ in range(3)]
    for i, s in enumerate(sockets):
        s.sendall(b"abc%d" % i * 10000)
    for i, s in enumerate(sockets[:2]):
        with s, s.makefile("rb") as stream:
            assert stream.read(7 + 40000) == b"hello\r\n" + b"ABC%d" % i * 10000
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with sockets[2] as s, contextlib.suppress(ConnectionResetError):  # a reset: it had bytes of ours unread
        while s.recv(65536):
            pass


def test_vnc_socket(coppice, daemon):
    daemon.on("GET /v1/vms/desk", 200, vm())
    daemon.on("GET /v1/vms/dark", 200, vm("dark", display="none", vnc_socket=None))
    assert coppice("vnc", "desk").out == "/x/vnc.sock\n"
    assert coppice.json("vnc", "desk") == {"vnc_socket": "/x/vnc.sock"}
    assert "VM 'dark' has no display\n  hint: run it with --display vga\n" in coppice("vnc", "dark", status=1).err


# Catches: a status line that is left behind or shown to nobody.
def test_progress(coppice, daemon):
    def slow(method, path):
        if method == "POST":
            done.wait(30)
        names = ["old"] if not slow.calls else ["old", "a", "b"]
        slow.calls += method == "GET"
        done.set() if slow.calls > 2 else None
        return (201, {"vms": [vm("a"), vm("b")], "all_ms": 400, "ready_ms": None}) if method == "POST" else \
            (200, {"vms": [vm(n) for n in names]})

    slow.calls, done = 0, threading.Event()
    daemon.answer = slow
    tty = Terminal(coppice, "clone", "base", "-n", "2")
    tty.read_until(b"2 clones running")
    assert tty.wait() == 0
    assert b"cloning base: 2/2 running" in tty.seen and b"\r\x1b[K2 clones" in tty.seen
