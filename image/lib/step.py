"""Progress lines, errors that say what, why and what to do, and running of host programs."""
import os
import shutil
import subprocess
import sys
import time

START = time.monotonic()


class BuildError(Exception):
    def __init__(self, what, why, todo):
        super().__init__(f"{what}: {why}; {todo}")


def say(text):
    print(f"[{time.monotonic() - START:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(argv, what, env=None, cwd=None, timeout_s=1800):
    """Run a program quietly and return its standard output; its last words go into the error."""
    argv = [str(a) for a in argv]
    full_env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/root", **(env or {})}
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                              env=full_env, cwd=cwd, timeout=timeout_s, check=False)
    except OSError as e:
        raise BuildError(what, str(e), "install the packages in image/host-packages.txt") from e
    except subprocess.TimeoutExpired as e:
        raise BuildError(what, f"{argv[0]} took more than {timeout_s} s", "check the mirror and the machine's load") from e
    if done.returncode != 0:
        tail = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise BuildError(what, f"{argv[0]} ended with status {done.returncode}", f"it said:\n  {tail}")
    return done.stdout


def require_tools(tools, list_file):
    """tools: {path or program: Debian package}. Refuse to start when one is missing."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    missing = sorted({package for tool, package in tools.items()
                      if not (os.path.exists(tool) if tool.startswith("/") else shutil.which(tool, path=path))})
    if missing:
        raise BuildError("cannot build here", "host packages are missing: " + " ".join(missing),
                         f"run: apt-get install {' '.join(missing)} (all are listed in {list_file})")
