# SPDX-License-Identifier: MIT
"""Finding and starting the daemon. A script named coppiced beside a copy of the binary plays it."""
import os
import shutil
import socket
import stat
import sys
import textwrap

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
VERSION = {"name": "coppiced", "version": "0.1.0", "api": 1, "pid": 5, "dir": "/x"}


@pytest.fixture
def alone(coppice, folder):
    """The client where no coppiced is beside it, with an empty state directory."""
    (folder / "bin").mkdir()
    coppice.bin = shutil.copy(coppice.bin, folder / "bin/coppice")
    coppice.env["COPPICE_DIR"] = str(folder / "state")
    return coppice


def play(folder, body):
    """Put a coppiced beside the client that runs `body`, with ready() and the arguments at hand."""
    script = folder / "bin/coppiced"
    prelude = f"""\
        #!{sys.executable}
        import os, sys, pathlib, time
        sys.dont_write_bytecode = True
        sys.path.insert(0, {HERE!r})
        args = dict(zip(sys.argv[1::1], sys.argv[2::1]))
        state, fd = pathlib.Path(args["--dir"]), int(args["--ready-fd"])
        def ready(text="ready\\n"):
            os.write(fd, text.encode())
            os.close(fd)
        """
    script.write_text(textwrap.dedent(prelude) + textwrap.dedent(body))
    script.chmod(0o755)


SERVE = f"""
from fake_daemon import FakeDaemon
(state / "seen").write_text(repr((sys.argv[1:], os.getsid(0) == os.getpid(), os.getcwd(),
                                  [os.readlink(f"/proc/self/fd/{{i}}") for i in (0, 1, 2)],
                                  [i for i in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{i}}")])))
daemon = FakeDaemon(state)
daemon.on("GET /v1/version", 200, {VERSION!r})
ready()
while state.exists():
    time.sleep(0.05)
"""


# Catches: a client that says nothing useful, or makes directories, when there is no daemon to start.
def test_no_daemon_program(alone, folder):
    result = alone("ps", status=1)
    assert "there is no program 'coppiced'" in result.err and "  hint: install coppiced" in result.err
    assert not (folder / "state").exists()
    assert alone.json("ps", status=1)["error"]["code"] == "unreachable"


# Catches: wrong arguments, a daemon that hangs on the terminal or session, a leaked descriptor, an open directory.
def test_starts_a_detached_daemon(alone, folder):
    play(folder, SERVE)
    held, other = os.pipe()  # of the caller's, and not meant for a daemon
    assert alone.json("version", pass_fds=[held, other])["pid"] == 5
    state = folder / "state"
    args, own_session, cwd, streams, fds = eval((state / "seen").read_text())
    fd = args[-1]
    assert args == ["--dir", str(state), "--autostarted", "--ready-fd", fd]
    assert own_session and cwd == "/" and streams == ["/dev/null", "/dev/null", f"{state}/coppiced.log"]
    assert set(fds) == {"0", "1", "2", fd}
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "coppiced.log").stat().st_mode) == 0o600


# Catches: an error of the daemon that gets lost, its hint that is not told apart, its escape codes that get through.
def test_shows_why_it_did_not_start(alone, folder):
    play(folder, r"ready('coppiced: cannot listen: \x1b[31mno\n  hint: try harder\n')")
    result = alone("ps", status=1)
    assert result.err == "coppice: coppiced did not start: cannot listen: ?[31mno\n  hint: try harder\n"


# Catches: a daemon that dies before it can use the pipe and takes its reason with it.
def test_shows_the_log_of_one_that_died(alone, folder):
    play(folder, "sys.exit('coppiced: no such option')")
    (folder / "state").mkdir(mode=0o700)
    (folder / "state/coppiced.log").write_text("coppiced: of yesterday\n")
    result = alone("ps", status=1)
    assert "did not start: no such option\n" in result.err and "yesterday" not in result.err
    play(folder, "os._exit(3)")
    assert "it ended without a reason" in alone("ps", status=1).err


# Catches: the loser of a race that reports an error though the winner is about to serve.
def test_waits_for_the_winner_of_a_race(alone, folder):
    play(folder, "ready(f'coppiced: another coppiced serves {state} already\\n')\ntime.sleep(0.5)\n" +
         SERVE.replace("ready()", ""))
    assert alone.json("version")["pid"] == 5


# Catches: a stale socket that is taken for a daemon; a program that can't be run.
def test_stale_socket_and_unusable_program(alone, folder):
    (folder / "state").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "state/coppiced.sock"))
    (folder / "bin/coppiced").write_text("#!/nonexistent/interpreter\n")
    (folder / "bin/coppiced").chmod(0o755)
    assert "cannot run" in alone("ps", status=1).err


# Catches: a path that does not fit into a socket's address and is cut.
def test_too_long_a_directory(alone, folder):
    long = folder / ("x" * 120)
    assert "too long for a socket" in alone("ps", "--dir", str(long), status=1).err
    assert not long.exists()


# Catches: --dir that is only understood in one place, or loses to the environment.
def test_where_dir_may_stand(alone, folder):
    play(folder, SERVE)
    for i, args in enumerate((["--dir", "D", "version"], ["--dir=D", "version"], ["version", "--dir", "D"],
                              ["--dir", "/nonexistent", "version", "--dir=D"])):
        place = folder / f"d{i}"
        alone(*[a.replace("D", str(place)) if a != "--dir" and not a.startswith("--dir=/") else a for a in args])
        assert (place / "coppiced.sock").exists()
        shutil.rmtree(place)
    assert not (folder / "state").exists()
