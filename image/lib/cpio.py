"""An initramfs ("newc" cpio) whose bytes depend on its contents only: sorted, one owner, one time.

Entries are kept in memory; nothing is created on the host, so device nodes need no privilege.
"""
import os
import stat


class Initramfs:
    def __init__(self, mtime):
        self.mtime = mtime
        self.entries = {}

    def dir(self, path):
        parts = path.strip("/").split("/")
        for i in range(1, len(parts) + 1):
            self.entries.setdefault("/".join(parts[:i]), (stat.S_IFDIR | 0o755, b"", (0, 0)))

    def _put(self, path, mode, data=b"", rdev=(0, 0)):
        path = path.strip("/")
        if "/" in path:
            self.dir(os.path.dirname(path))
        self.entries[path] = (mode, data, rdev)

    def file(self, path, data, mode=0o644):
        self._put(path, stat.S_IFREG | mode, data)

    def link(self, path, target):
        self._put(path, stat.S_IFLNK | 0o777, target.encode())

    def char(self, path, major, minor, mode=0o600):
        self._put(path, stat.S_IFCHR | mode, b"", (major, minor))

    def tree(self, top):
        """Everything below directory `top` of the host; a file is executable if it is so there."""
        for path in sorted(top.rglob("*")):
            name = str(path.relative_to(top))
            if path.is_symlink():
                self.link(name, os.readlink(path))
            elif path.is_dir():
                self.dir(name)
            else:
                self.file(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)

    def write(self, path):
        with open(path, "wb") as out:
            for ino, name in enumerate(sorted(self.entries), 1):
                mode, data, rdev = self.entries[name]
                self._record(out, ino, name, mode, data, rdev)
            self._record(out, 0, "TRAILER!!!", 0, b"", (0, 0))
            out.write(b"\0" * (-out.tell() % 512))

    def _record(self, out, ino, name, mode, data, rdev):
        raw = name.encode() + b"\0"
        fields = (ino, mode, 0, 0, 1, self.mtime if ino else 0, len(data), 0, 0, *rdev, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        out.write(head + b"\0" * (-len(head) % 4))
        out.write(data + b"\0" * (-len(data) % 4))
