"""A stock Debian kernel taken out of its package, and the few modules that an image needs, in loading order."""
import re

from .step import BuildError, run


class Kernel:
    """Unpacks the kernel behind metapackage `meta` below `work`."""

    def __init__(self, archive, meta, work):
        self.package = archive.dependency(meta, r"linux-image-[0-9].*")
        self.version, self.deb = archive.fetch(self.package)
        self.release = self.package.removeprefix("linux-image-")
        self.root = work / "kernel"
        self.root.mkdir()
        run(["dpkg-deb", "-x", self.deb, self.root], f"unpack {self.package}")
        run(["depmod", "-b", self.root, self.release], f"list the modules of {self.package}")
        self.image = self.root / "boot" / f"vmlinuz-{self.release}"
        self.modules = self.root / "lib/modules" / self.release
        self.needs = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, deps = line.split(":")
            self.needs[path] = deps.split()
        self.by_name = {self.module_name(path): path for path in self.needs}

    @staticmethod
    def module_name(path):
        return re.sub(r"\.ko(\.\w+)?$", "", path.rsplit("/", 1)[-1]).replace("-", "_")

    def closure(self, names):
        """Paths below the modules directory of `names` and all they need, each after what it needs."""
        ordered = []
        builtin = {self.module_name(p) for p in (self.modules / "modules.builtin").read_text().split()}
        for name in names:
            name = name.replace("-", "_")
            if name not in self.by_name:
                if name in builtin:
                    continue
                raise BuildError(f"{self.package} has no module {name}", "neither as a file nor built in", "correct the image's list of modules")
            path = self.by_name[name]
            for each in (*reversed(self.needs[path]), path):
                if each not in ordered:
                    ordered.append(each)
        return ordered


def read_list(path):
    """Words of a list file; '#' starts a comment."""
    return [word for line in path.read_text().splitlines() for word in line.split("#")[0].split()]
