"""An agent against a host of ours: the real program, with a directory for its root and a socket for its port."""
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import wire  # noqa: E402

AGENT = os.environ.get("COPPICE_AGENT", "build/src/guest/coppice-agent")


class Machine:
    def __init__(self, *options, unshare=False):
        self.dir = tempfile.mkdtemp(prefix="agent-")
        self.root = self.dir + "/root"
        for path in ("etc/coppice/clone.d", "run", "var/lib/dbus"):
            os.makedirs(f"{self.root}/{path}")
        self.server = wire.listen(self.dir + "/port")
        self.options, self.unshare = options, unshare
        self.process = None
        self.start()

    def start(self):
        argv = ["unshare", "-mun"] if self.unshare else []
        self.process = subprocess.Popen([*argv, AGENT, "--port", self.dir + "/port", "--root", self.root, *self.options])
        self.host = wire.Host(self.server.accept()[0])
        return self.host

    def hook(self, name, body):
        path = f"{self.root}/etc/coppice/clone.d/{name}"
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n" + body + "\n")
        os.chmod(path, 0o755)

    def read(self, path):
        with open(self.root + path, encoding="utf-8") as f:
            return f.read()

    def client(self, *args):
        return subprocess.Popen([AGENT, "--root", self.root, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.server.close()
            self.host.sock.close()
            shutil.rmtree(self.dir)


@pytest.fixture
def machine():
    m = Machine()
    yield m
    m.close()


@pytest.fixture
def host(machine):
    assert machine.host.hello()[0] == wire.HELLO_ACK
    return machine.host


@pytest.fixture
def clone_machine():
    if os.geteuid() != 0:
        pytest.skip("namespaces of its own need root")
    m = Machine("--namespaced", unshare=True)
    yield m
    m.close()
