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
        assert time.monotonic() < end, f"waited {deadline_s} s for {what}"
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
