"""The image "minimal": Debian's cloud kernel and a busybox initramfs of our own; no disk."""
import shutil

from . import agent
from .apt import Archive, deb_time
from .cpio import Initramfs
from .kernel import Kernel, read_list
from .step import run, say

TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "depmod": "kmod", "strip": "binutils", **agent.TOOLS,
         "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring"}
PROGRAMS = ("memtool", "show")


def compile_static(source, output):
    run(["musl-gcc", "-static", "-Os", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none", "-s",
         f"-ffile-prefix-map={source.parent}=.", "-o", output, source], f"compile {source.name}")
    return output.read_bytes()


def busybox(archive, work):
    """(version, package, bytes, names of its commands)"""
    version, deb = archive.fetch("busybox-static")
    root = work / "busybox"
    root.mkdir()
    run(["dpkg-deb", "-x", deb, root], "unpack busybox-static")
    program = root / "bin/busybox"
    return version, deb, program.read_bytes(), run([program, "--list-full"], "list busybox's commands").split()


def build(here, work, result, cache, sources, manifest):
    own = here / "minimal"
    say("reading the package index")
    archive = Archive(work, cache, sources)
    say("fetching kernel and busybox")
    kernel = Kernel(archive, "linux-image-cloud-amd64", work)
    bb_version, bb_deb, bb_bytes, commands = busybox(archive, work)
    epoch = max(deb_time(kernel.deb), deb_time(bb_deb))

    say("packing the initramfs")
    fs = Initramfs(epoch)
    for path in ("proc", "sys", "dev", "run", "tmp", "mnt", "root"):
        fs.dir(path)
    fs.char("dev/console", 5, 1)
    fs.char("dev/null", 1, 3, 0o666)
    fs.file("bin/busybox", bb_bytes, 0o755)
    for command in commands:
        if command != "bin/busybox":
            fs.link(command, "/bin/busybox")
    fs.tree(own / "root")
    for name in PROGRAMS:
        fs.file(f"bin/{name}", compile_static(own / f"{name}.c", work / name), 0o755)
    fs.file(agent.PATH, agent.compile_agent(here, work), 0o755)
    fs.dir("etc/coppice/clone.d")
    loaded = []
    for when in ("first", "late"):
        order = [path for path in kernel.closure(read_list(own / f"modules-{when}")) if path not in loaded]
        loaded += order
        fs.file(f"lib/modules/{when}", "".join(f"{path}\n" for path in order).encode())
        for path in order:
            fs.file(f"lib/modules/{path}", (kernel.modules / path).read_bytes())
    fs.write(result / "initrd.img")
    shutil.copyfile(kernel.image, result / "vmlinuz")

    manifest.update(kind="kernel", kernel="vmlinuz", initrd="initrd.img", append=" ".join(read_list(own / "cmdline")),
                    memory_bytes=128 << 20, cpus=1, display="vga", network="user", console="ttyS0", channel="hvc0",
                    packages=sorted([["busybox-static", bb_version], [kernel.package, kernel.version]]), source_date_epoch=epoch)
