"""The image "desktop": Debian with X, icewm and a few programs on one disk that a BIOS boots."""
import os
import shlex
import shutil

from . import agent, disk
from .apt import Archive, deb_time, host_options
from .cpio import Initramfs
from .kernel import Kernel, read_list
from .step import run, say

TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "mmdebstrap": "mmdebstrap", "unshare": "util-linux", "depmod": "kmod",
         "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring", **agent.TOOLS, **disk.TOOLS}
DISK_BYTES = 8 << 30
INSTALL_EPOCH = 1672531200  # what maintainer scripts see as the time; the image's own follows from its packages
PATH_EXCLUDE = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*")
LEFTOVERS = ("var/log/*", "var/log/*/*", "var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/*", "var/lib/apt/lists/*", "var/lib/dpkg/*-old",
             "etc/ssh/ssh_host_*", "etc/*-", "etc/apt/apt.conf.d/99mmdebstrap", "tmp/*", "root/.bash_history", "var/lib/systemd/random-seed",
             "var/lib/dbus/machine-id", "etc/.pwd.lock", "var/cache/fontconfig/*")


def install_packages(own, root, cache, sources):
    """mmdebstrap into `root`; downloaded packages stay in `cache`."""
    cache.mkdir(exist_ok=True)
    kept = shlex.quote(str(cache))
    # Its own mounts and processes, so that none survives it, however it ends.
    argv = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap", "--mode=root",
            "--variant=minbase", "--format=directory", "--architectures=amd64", "--skip=download/empty", "--skip=essential/unlink", "--include=" + ",".join(read_list(own / "packages")),
            '--setup-hook=mkdir -p "$1"/var/cache/apt/archives', f"--setup-hook=sync-in {kept} /var/cache/apt/archives",
            f"--customize-hook=sync-out /var/cache/apt/archives {kept}", '--aptopt=Acquire::Languages "none"']
    argv += [f"--aptopt={line}" for line in host_options()]
    argv += [f"--dpkgopt=path-exclude={p}" for p in PATH_EXCLUDE] + ["--dpkgopt=path-include=/usr/share/doc/*/copyright"]
    run([*argv, sources.suite, root, *sources.lines()], "install the packages", {"SOURCE_DATE_EPOCH": str(INSTALL_EPOCH)})
    out = run(["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}\t${Version}\t${Architecture}\n"], "list the packages")
    return [line.split("\t") for line in out.splitlines()]


def in_root(root, *argv):
    return run(["chroot", root, *argv], f"run {argv[0]} in the image", {"SOURCE_DATE_EPOCH": str(INSTALL_EPOCH)})


def add_programs(own, root):
    """Compile coppice-show and its window with the image's own compiler."""
    build = root / "tmp/coppice"
    build.mkdir()
    for source in own.glob("*.[ch]"):
        shutil.copyfile(source, build / source.name)
    flags = ["-std=gnu17", "-O2", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none"]
    for name, libs in (("coppice-show", ()), ("coppice-show-window", ("-I/usr/include/freetype2", "-lXft", "-lX11"))):
        in_root(root, "gcc", *flags, "-o", f"/usr/local/bin/{name}", f"/tmp/coppice/{name}.c", *libs)
    shutil.rmtree(build)


def add_agent(here, work, root):
    """As its package would, but for the package's records."""
    target = root / agent.PATH
    target.write_bytes(agent.compile_agent(here, work))
    target.chmod(0o755)
    shutil.copyfile(here / "agent/coppice-agent.service", root / "lib/systemd/system/coppice-agent.service")
    (root / "etc/coppice/clone.d").mkdir(parents=True)
    in_root(root, "systemctl", "enable", "coppice-agent.service")


def add_settings(own, root):
    in_root(root, "useradd", "-m", "-s", "/bin/bash", "user")
    for path in sorted((own / "root").rglob("*")):
        target = root / path.relative_to(own / "root")
        if path.is_dir():
            target.mkdir(exist_ok=True)
            continue
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target)
        target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    in_root(root, "chown", "-R", "user:user", "/home/user")
    in_root(root, "systemctl", "mask", *read_list(own / "masked"))
    generators = root / "etc/systemd/system-generators"
    generators.mkdir()
    for name in ("systemd-getty-generator", "systemd-gpt-auto-generator", "systemd-fstab-generator"):
        (generators / name).symlink_to("/dev/null")
    in_root(root, "systemctl", "disable", "ssh.service")
    in_root(root, "systemctl", "set-default", "multi-user.target")
    in_root(root, "systemctl", "enable", "ssh.socket", "systemd-networkd.service", "coppice-x.service", "coppice-desktop.service",
            "coppice-ready.path", "coppice-hostkeys.service")


def add_kernel(own, root, kernel, busybox, epoch):
    boot = root / "boot"
    shutil.copyfile(kernel.image, boot / "vmlinuz")
    target = root / "lib/modules" / kernel.release
    for path in kernel.closure(read_list(own / "modules")):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kernel.modules / path, target / path)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copyfile(kernel.modules / name, target / name)
    run(["depmod", "-b", root, kernel.release], "list the image's modules")

    fs = Initramfs(epoch)
    for name in ("dev", "disk"):
        fs.dir(name)
    fs.char("dev/console", 5, 1)
    fs.file("bin/busybox", busybox, 0o755)
    for name in ("sh", "mount", "insmod", "usleep", "poweroff", "switch_root"):
        fs.link(f"bin/{name}", "busybox")
    fs.file("init", (own / "init").read_bytes(), 0o755)
    order = kernel.closure(read_list(own / "modules-initrd"))
    fs.file("lib/modules/first", "".join(f"{p}\n" for p in order).encode())
    for path in order:
        fs.file(f"lib/modules/{path}", (kernel.modules / path).read_bytes())
    fs.write(boot / "initrd.img")
    (boot / "grub").mkdir()
    (boot / "grub/grub.cfg").write_text("set gfxpayload=1024x768x32\nlinux /boot/vmlinuz " + " ".join(read_list(own / "cmdline"))
                                        + "\ninitrd /boot/initrd.img\nboot\n")


def clean(root):
    for pattern in LEFTOVERS:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                if not pattern.startswith("var/log"):
                    shutil.rmtree(path)
            else:
                path.unlink()
    for path in ("dev", "run"):
        shutil.rmtree(root / path)
        (root / path).mkdir()


def limit_times(root, epoch):
    """No file is younger than the youngest package."""
    for top, dirs, files in os.walk(root):
        for path in (os.path.join(top, name) for name in (*dirs, *files, "")):
            if os.lstat(path.rstrip("/")).st_mtime > epoch:
                os.utime(path.rstrip("/"), (epoch, epoch), follow_symlinks=False)


def package_epoch(cache, packages, *more):
    names = [f"{name}_{version.replace(':', '%3a')}_{arch}.deb" for name, version, arch in packages]
    return max(deb_time(path) for path in (*more, *(cache / n for n in names if (cache / n).is_file())))


def build(here, work, result, cache, sources, manifest):
    own, root = here / "desktop", work / "root"
    say("reading the package index")
    archive = Archive(work, cache, sources)
    say("fetching the kernel")
    kernel = Kernel(archive, "linux-image-amd64", work)
    bb_version, bb_deb = archive.fetch("busybox-static")
    run(["dpkg-deb", "-x", bb_deb, work / "busybox"], "unpack busybox-static")
    say("installing packages (the longest step)")
    packages = install_packages(own, root, cache / "desktop", sources)
    epoch = package_epoch(cache / "desktop", packages, kernel.deb, bb_deb)
    say("adding programs and settings")
    add_programs(own, root)
    add_settings(own, root)
    add_agent(here, work, root)
    add_kernel(own, root, kernel, (work / "busybox/bin/busybox").read_bytes(), epoch)
    clean(root)
    limit_times(root, epoch)
    in_root(root, "fc-cache", "-s")
    limit_times(root, epoch)
    say("making the disk")
    disk.make_disk(here, work, root, result / "disk.qcow2", DISK_BYTES, "desktop", epoch)
    listed = [[name, version] for name, version, _ in packages] + [[kernel.package, kernel.version], ["busybox-static", bb_version]]
    manifest.update(kind="disk", disk="disk.qcow2", disk_format="qcow2", memory_bytes=1 << 30, cpus=1, display="vga", network="user",
                    console="ttyS0", channel="hvc0", packages=sorted(listed), source_date_epoch=epoch)
