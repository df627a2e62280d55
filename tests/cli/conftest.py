# SPDX-License-Identifier: MIT
"""What the client's tests share: the binary (COPPICE_BIN), a state directory, a peer in it."""
import json
import os
import subprocess
import tempfile
import pathlib

import pytest

from fake_daemon import FakeDaemon

BIN = os.path.abspath(os.environ["COPPICE_BIN"])


@pytest.fixture
def folder():
    # Not tmp_path: that is too long a path for a socket.
    with tempfile.TemporaryDirectory(prefix="cop-cli-") as path:
        yield pathlib.Path(path)


@pytest.fixture
def daemon(folder):
    fake = FakeDaemon(folder)
    yield fake
    fake.close()
    assert fake.problems == []


class Coppice:
    """Runs the client on the test's state directory, and nothing of the caller's environment."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = BIN
        self.env = {"PATH": "/nonexistent", "COPPICE_DIR": str(folder), "TERM": "xterm", "LC_ALL": "C.UTF-8",
                    "G_DEBUG": "fatal-warnings",
                    **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def __call__(self, *args, status=0, **kwargs):
        if "input" not in kwargs:
            kwargs["stdin"] = subprocess.DEVNULL
        result = subprocess.run([self.bin, *args], capture_output=True, env=self.env, timeout=60, cwd=self.folder,
                                **kwargs)
        result.out, result.err = result.stdout.decode(errors="replace"), result.stderr.decode()
        assert result.returncode == status, (args, result.out, result.err)
        return result

    def json(self, *args, **kwargs):
        return json.loads(self(*args, "--json", **kwargs).out)

    def popen(self, *args, **kwargs):
        return subprocess.Popen([self.bin, *args], env=self.env, cwd=self.folder, **kwargs)


@pytest.fixture
def coppice(folder):
    return Coppice(folder)
