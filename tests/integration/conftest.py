import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from coppice import IMAGES, Daemon  # noqa: E402


@pytest.fixture
def make_daemon(tmp_path):
    """Starts daemons; at the end each is held to leave nothing behind."""
    daemons = []

    def make(*options, directory=None, **more):
        # A short path: sockets in it have a limited length. Tests run side by side.
        directory = directory or Path("/tmp") / f"coppice-test-{os.getpid()}-{tmp_path.name[:30]}-{len(daemons)}"
        shutil.rmtree(directory, ignore_errors=True)
        daemon = Daemon(directory, *options, **more)
        daemons.append(daemon)
        return daemon.start()

    yield make
    for daemon in daemons:
        daemon.close()
        shutil.rmtree(daemon.dir, ignore_errors=True)
        daemon.log.unlink()


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


def pytest_sessionstart(session):
    if not (IMAGES / "minimal/image.json").exists():
        pytest.exit(f"no minimal image in {IMAGES}: make images", 2)
