"""Debian's archive, seen through apt with a private state: nothing of the host's own apt is read or changed.

Exception: how the host reaches the network and how strictly it judges dates (HOST_OPTIONS) is taken over.
"""
import pathlib
import re

from .step import BuildError, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
HOST_OPTIONS = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")


class Sources:
    def __init__(self, suite, mirror, security_mirror):
        for value, what in ((suite, "--suite"), (mirror, "--mirror"), (security_mirror or "-", "--security-mirror")):
            if not re.fullmatch(r"[A-Za-z0-9:/._~%+@-]+", value):
                raise BuildError(f"bad {what} {value!r}", "it holds characters that a sources.list line cannot", "correct it")
        self.suite = suite
        self.mirror = mirror.rstrip("/")
        self.security = (security_mirror or self.mirror + "-security").rstrip("/")

    def options(self):
        return [self.suite, self.mirror, self.security]

    def lines(self):
        """sources.list lines, release first."""
        return [f"deb [signed-by={KEYRING}] {url} {suite} main" for url, suite in (
            (self.mirror, self.suite), (self.mirror, f"{self.suite}-updates"), (self.security, f"{self.suite}-security"))]


def host_options():
    """The host's values of HOST_OPTIONS, as apt.conf lines."""
    known = dict(re.findall(r'^(\S+) "(.*)";$', run(["apt-config", "dump"], "read apt's configuration"), re.M))
    return [f'{key} "{known[key]}"' for key in HOST_OPTIONS if known.get(key)]


class Archive:
    """A package index in `work`; packages are kept in `cache`."""

    def __init__(self, work, cache, sources):
        self.cache = cache
        root = work / "apt"
        for sub in ("lists/partial", "archives/partial", "etc"):
            (root / sub).mkdir(parents=True, exist_ok=True)
        (root / "etc/sources.list").write_text("\n".join(sources.lines()) + "\n")
        (root / "status").write_text("")
        options = [f'Dir::Etc "{root}/etc"', f'Dir::Etc::SourceParts "-"', f'Dir::Etc::Parts "-"', f'Dir::State::Lists "{root}/lists"',
                   f'Dir::State::Status "{root}/status"', f'Dir::Cache "{root}"', 'Acquire::Languages "none"',
                   'APT::Architecture "amd64"', 'APT::Sandbox::User "root"', "APT::Architectures { \"amd64\"; }", *host_options()]
        (root / "apt.conf").write_text("".join(o + ";\n" for o in options))
        self.env = {"APT_CONFIG": str(root / "apt.conf")}
        run(["apt-get", "update", "-qq", "--error-on=any"], f"read the package index of {sources.mirror}", self.env)

    def dependency(self, package, pattern):
        """The first dependency of `package` that matches, e.g. the versioned kernel behind a metapackage."""
        out = run(["apt-cache", "depends", package], f"look up {package}", self.env)
        names = [n for n in re.findall(r"Depends: (\S+)", out) if re.fullmatch(pattern, n)]
        if not names:
            raise BuildError(f"cannot find a kernel for {package}", "its dependencies name none", "check --suite and --mirror")
        return names[0]

    def fetch(self, package):
        """Download one package unless the cache holds it. Returns (version, path of the .deb)."""
        out = run(["apt-get", "download", "--print-uris", "-qq", package], f"look up {package}", self.env)
        match = re.search(r"'[^']+' (\S+) \d+ (SHA256:[0-9a-f]{64})", out)
        if not match:
            raise BuildError(f"cannot download {package}", "the archive does not name it", "check --suite and --mirror")
        path = pathlib.Path(self.cache) / match[1]
        if not path.is_file():
            run(["apt-get", "download", "-qq", package], f"download {package}", self.env, cwd=self.cache)
        got = "SHA256:" + run(["sha256sum", path], f"check {path.name}").split()[0]
        if got != match[2]:
            path.unlink()
            raise BuildError(f"the cached {path.name} is damaged", "its hash is not the archive's", "it was removed: build again")
        version = run(["dpkg-deb", "-f", path, "Version"], f"read {path.name}").strip()
        return version, path


def deb_time(path):
    """When the package was built: the time of a .deb's first member (an ar header: name 16, mtime 12 bytes)."""
    with open(path, "rb") as f:
        head = f.read(8 + 28)
    if head[:8] != b"!<arch>\n":
        raise BuildError(f"cannot read {path}", "it is not a Debian package", "remove it from the cache and build again")
    return int(head[24:36])
