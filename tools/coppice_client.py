"""A client of coppiced's API: requests over its unix socket, consoles over WebSocket."""
import http.client
import json
import os
import socket
import time

import websocket

DEADLINE_S = 120  # for anything that should happen soon, on a slow and busy machine


class ApiError(Exception):
    def __init__(self, status, body):
        self.status = status
        error = body.get("error", {}) if isinstance(body, dict) else {}
        self.code = error.get("code")
        self.message = error.get("message", str(body))
        self.hint = error.get("hint")
        super().__init__(f"{status} {self.code}: {self.message}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=300)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(300)
        self.sock.connect(self.path)


def wait_until(condition, what, deadline_s=DEADLINE_S):
    """Polls until condition() is true; its value. Fails with `what` when it never is."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {deadline_s} s for {what() if callable(what) else what}"
        time.sleep(0.02)


class Client:
    """Talks to the daemon of a state folder."""

    def __init__(self, directory):
        self.socket = f"{directory}/coppiced.sock"

    def request(self, method, path, body=None, raw=None):
        """Status, content type and body bytes."""
        connection = UnixConnection(self.socket)
        data = raw if raw is not None else (None if body is None else json.dumps(body))
        connection.request(method, path, data)
        response = connection.getresponse()
        result = response.status, response.getheader("Content-Type"), response.read()
        connection.close()
        return result

    def api(self, method, path, body=None, raw=None):
        """The answer's JSON, or ApiError."""
        status, content_type, data = self.request(method, path, body, raw)
        if content_type == "application/json":
            data = json.loads(data)
        if status >= 400:
            raise ApiError(status, data)
        return data

    def console(self, name):
        return Console(self, name)

    def exec(self, name, *argv, stdin=None, deadline_s=DEADLINE_S, **more):
        """Runs a command in a VM; its Done."""
        with Exec(self, f"/v1/vms/{name}/exec", dict(more, argv=list(argv), stdin=stdin is not None), deadline_s) as e:
            return e.finish(stdin)

    def guest(self, name, script, **more):
        """Output of a shell script in a VM, which must succeed."""
        done = self.exec(name, "sh", "-c", script, **more)
        assert done.status == 0, (name, script, done)
        return done.out.decode(errors="replace")


class Done:
    """What became of a command: status (negative: the signal), out, err, error (the daemon's, or None)."""

    def __init__(self, result, out, err):
        self.result, self.out, self.err = result, bytes(out), bytes(err)
        self.error = result["error"] if result else {"code": "lost", "message": "the connection broke"}
        self.status = None
        if result and not self.error:
            self.status = result["exit"] if result["signal"] is None else -result["signal"]

    def __repr__(self):
        return f"Done(status={self.status}, error={self.error}, out={self.out[-300:]!r}, err={self.err[-300:]!r})"


class Exec:
    """A command in a VM, over its WebSocket: docs/openapi.json says what the messages are."""

    def __init__(self, client, path, request, deadline_s=DEADLINE_S):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(deadline_s)
        sock.connect(client.socket)
        self.ws = websocket.create_connection(f"ws://localhost{path}", socket=sock, timeout=deadline_s)
        self.ws.send(json.dumps(request))
        self.credit, self.eaten = 0, [0, 0, 0]
        self.out, self.err = bytearray(), bytearray()
        self.out_bytes, self.sum = 0, None  # sum: a hash that takes the output instead
        self.result = None
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def kind(self, kind, data=b""):
        self.ws.send_binary(bytes([kind]) + data)

    def signal(self, number):
        self.kind(3, bytes([number]))

    def step(self):
        """Takes one message; False at the end."""
        try:
            opcode, data = self.ws.recv_data()
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            opcode = websocket.ABNF.OPCODE_CLOSE
        if opcode == websocket.ABNF.OPCODE_TEXT:
            self.result = json.loads(data)
        elif opcode == websocket.ABNF.OPCODE_CLOSE:
            self.ended = True
        elif data[0] == 5:
            self.credit += int.from_bytes(data[2:6], "big")
        else:
            self.take(data[0], data[1:])
        return not self.ended

    def take(self, stream, data):
        if stream == 1 and self.sum:
            self.sum.update(data)
            self.out_bytes += len(data)
        else:
            (self.out if stream == 1 else self.err).extend(data)
        self.eaten[stream] += len(data)
        if self.eaten[stream] >= 65536:
            self.kind(5, bytes([stream]) + self.eaten[stream].to_bytes(4, "big"))
            self.eaten[stream] = 0

    def until(self, text):
        """Reads until the output has text."""
        while text not in self.out:
            assert self.step(), f"the command ended before {text}: {self.done()}"

    def write(self, data):
        """All of it, as the guest takes it."""
        at = 0
        while at < len(data) and not self.ended:
            n = min(self.credit, len(data) - at, 32768)
            if n == 0:
                self.step()
                continue
            self.kind(0, data[at:at + n])
            self.credit -= n
            at += n

    def done(self):
        return Done(self.result, self.out, self.err)

    def finish(self, stdin=None):
        if stdin is not None:
            self.write(stdin)
            if not self.ended:
                self.kind(0)
        while self.step():
            pass
        return self.done()


class Console:
    """A viewer of a VM's serial console."""

    def __init__(self, client, name):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE_S)
        sock.connect(client.socket)
        self.ws = websocket.create_connection(f"ws://localhost/v1/vms/{name}/console", socket=sock,
                                              timeout=DEADLINE_S)
        self.seen = b""
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def send(self, data):
        self.ws.send_binary(data)

    def until(self, text):
        """Reads until text has come; what came before it."""
        while text not in self.seen:
            data = self.ws.recv()
            assert data, f"the console ended before {text}; after it printed {self.seen[-500:]}"
            self.seen += data
        before, _, self.seen = self.seen.partition(text)
        return before

    def sh(self, command):
        """Output of a shell command. Markers tell it from the echo and from what was there."""
        self.count += 1
        mark = os.urandom(4).hex()
        self.send(f"echo b-''{mark}; {command}; echo e-''{mark}\n".encode())
        self.until(f"b-{mark}\r\n".encode())
        return self.until(f"e-{mark}\r\n".encode()).decode(errors="replace").replace("\r\n", "\n")
