# SPDX-License-Identifier: MIT
"""A peer for the client's own tests: HTTP and WebSockets on a unix socket, answers written by the test.

Every request is checked against docs/openapi.json (path, query, body), and so is every JSON answer
that the test lets it give: a test can't pass with a request or an answer that the contract does not know.
What coppiced really does is tested elsewhere.
"""
import base64
import hashlib
import http.server
import json
import pathlib
import re
import socketserver
import threading
import urllib.parse

import jsonschema

SPEC = json.loads((pathlib.Path(__file__).resolve().parents[2] / "docs/openapi.json").read_text())


def violations(schema, value):
    whole = {**schema, "components": SPEC["components"]}
    return [f"{list(e.path)}: {e.message}" for e in jsonschema.Draft202012Validator(whole).iter_errors(value)]


def find_operation(method, path):
    """The operation in the contract, or None; and its path's other parameters."""
    for pattern, item in SPEC["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[a-z0-9][a-z0-9._-]{0,62}", pattern.replace(".", r"\.")), path):
            return item.get(method.lower())
    return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def serve(self):
        daemon = self.server.fake
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        operation = find_operation(self.command, url.path)
        self.check_request(daemon, operation, url, body)
        daemon.requests.append((self.command, self.path, json.loads(body) if body else None))
        if self.headers.get("Upgrade") == "websocket" and url.path in daemon.websockets:
            self.websocket(daemon.websockets[url.path])
            return
        status, answer = daemon.answer(self.command, self.path)
        if isinstance(answer, bytes):
            return self.reply(status, answer, "image/png" if url.path.endswith("screenshot") else "application/json")
        if answer is not None and operation:
            spec = operation["responses"].get(str(status), operation["responses"]["default"])
            spec = SPEC["components"]["responses"]["Error"] if "$ref" in spec else spec
            daemon.problems += violations(spec["content"]["application/json"]["schema"], answer)
        self.reply(status, b"" if answer is None else json.dumps(answer).encode(), "application/json")

    do_GET = do_POST = do_DELETE = do_PATCH = serve

    def check_request(self, daemon, operation, url, body):
        if not operation:
            daemon.problems.append(f"{self.command} {self.path} is not in the contract")
            return
        known = {p["name"]: p for p in operation.get("parameters", [])}
        for key, value in urllib.parse.parse_qsl(url.query):
            if key not in known or value not in ("true", "false"):
                daemon.problems.append(f"{self.path}: parameter {key}={value}")
        if body:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            daemon.problems += violations(schema, json.loads(body))
            if self.headers.get("Content-Type") != "application/json":
                daemon.problems.append("a body that is not application/json")
        elif operation.get("requestBody", {}).get("required"):
            daemon.problems.append(f"{self.path}: no body")

    def reply(self, status, body, kind):
        self.send_response(status)
        if body:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def websocket(self, script):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        script(Socket(self.rfile, self.wfile))


class Socket:
    """One side of a WebSocket: send(), recv() (None once the client closes), close()."""

    def __init__(self, rfile, wfile):
        self.rfile, self.wfile = rfile, wfile

    def frame(self, opcode, data):
        size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
        self.wfile.write(bytes([0x80 | opcode]) + size + data)
        self.wfile.flush()

    def send(self, data):
        self.frame(2, data)

    def send_text(self, text):
        self.frame(1, text.encode())

    def recv(self):
        head = self.rfile.read(2)
        if len(head) < 2:
            return None
        size = head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
        mask = self.rfile.read(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
        if head[0] & 0x0F == 8:
            self.frame(8, data)
            return None
        return data

    def recv_until(self, text):
        got = b""
        while text not in got and (data := self.recv()) is not None:
            got += data
        return got

    def close(self, why=b"the VM has ended"):
        self.frame(8, (1001).to_bytes(2, "big") + why)
        while self.recv() is not None:
            pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request, address):
        pass  # the client may end at any time


class FakeDaemon:
    def __init__(self, directory):
        self.requests, self.problems, self.answers, self.websockets = [], [], {}, {}
        self.server = Server(str(directory / "coppiced.sock"), Handler)
        self.server.fake = self
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def on(self, request, status=200, answer=None):
        """Answer `request` ("GET /v1/vms") with a JSON value, bytes, or nothing (None)."""
        self.answers[request] = (status, answer)

    def answer(self, method, path):
        missing = {"error": {"code": "not-found", "message": f"no answer for {method} {path}", "hint": ""}}
        return self.answers.get(f"{method} {path}", (404, missing))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def error(code, message, hint=""):
    return {"error": {"code": code, "message": message, "hint": hint}}


NO_AGENT = {"state": "none", "reason": "", "version": None, "ready_ms": None, "steps": []}
READY = {"state": "ready", "reason": "", "version": "0.1.0", "ready_ms": 40.5,
         "steps": [{"name": n, "ok": True, "ms": 1.5, "detail": ""} for n in ("random", "hostname")]}
QUIESCE = {"done": True, "ms": 3.5, "reason": "", "held": True}


def vm(name="desk", **changes):
    memory = {"given_bytes": 1 << 30, "private_bytes": 5 << 20, "shared_bytes": 300 << 20, "vmm_bytes": 30 << 20,
              "page_table_bytes": 1 << 20, "stored_raw_bytes": 8 << 20, "stored_bytes": 2 << 20, "zero_bytes": 3 << 20,
              "same_bytes": 4 << 20, "discarded_bytes": 6 << 20}
    start = {"spawn_ms": 5.5, "qmp_ms": 40, "load_ms": 15, "total_ms": 310.25}
    return {"name": name, "id": 1, "state": "running", "reason": "", "busy": "", "template": None, "pid": 7,
            "accel": "tcg", "engine": "kernel", "memory_bytes": 1 << 30, "cpus": 1,
            "created": "2026-01-01T00:00:00Z", "display": "vga", "network": "user", "ssh_port": None,
            "vnc_socket": "/x/vnc.sock", "disk_bytes": 4096, "memory": memory, "start": start, "labels": {},
            "agent": NO_AGENT, "forks_left": 0, **changes}


FREEZE = {"window_ms": 61.2, "disks_ms": 20, "state_ms": 30, "ram_ms": 1, "total_ms": 800}


def template(name="base", **changes):
    return {"name": name, "created": "2026-01-01T00:00:00Z", "parent": None, "from_vm": "desk", "ephemeral": False,
            "accel": "tcg", "engine": "kernel", "memory_bytes": 1 << 30, "cpus": 1, "ram_bytes": 480 << 20, "resident_bytes": 480 << 20,
            "state_bytes": 2 << 20, "disk_bytes": 1 << 20, "file_bytes": 482 << 20, "clones": ["desk"],
            "templates": [], "agent": False, "freeze": FREEZE, **changes}
