"""A directory made into a bootable disk: MBR, GRUB, one ext4 partition; no mount, no loop device.

Layout (512-byte sectors):
  0        GRUB's boot.img (440 bytes), disk signature, one partition entry, 55 aa
  1 ..     GRUB's core image; boot.img loads sector 1, which names sectors 2 and up
  2048 ..  the ext4 file system, to the end of the disk
"""
import os
import struct
import uuid

from .step import BuildError, run

SECTOR = 512
FIRST = 2048
GRUB = "/usr/lib/grub/i386-pc"
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "vbe", "video", "normal", "configfile", "echo")
TOOLS = {"mke2fs": "e2fsprogs", "qemu-img": "qemu-utils", "grub-mkimage": "grub-common", f"{GRUB}/boot.img": "grub-pc-bin", "gcc": "gcc"}
NAMESPACE = uuid.UUID("5c0b1ce0-0000-4000-8000-000000000000")


def stat_shim(here, work):
    """Compile the library that gives mke2fs file times which do not depend on when files were unpacked."""
    shim = work / "stat-shim.so"
    run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", shim, here / "lib/stat-shim.c"], "compile stat-shim.c")
    return shim


def make_filesystem(path, root, size_bytes, name, epoch, shim):
    """ext4 on `path` from byte FIRST * SECTOR on. No checksums of metadata and a small journal: less to write and compute."""
    env = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch), "LD_PRELOAD": str(shim), "MKE2FS_CONFIG": "/dev/null"}
    fs_uuid, seed = uuid.uuid5(NAMESPACE, name), uuid.uuid5(NAMESPACE, name + " hash")
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-N", "262144", "-m", "0", "-L", name, "-U", fs_uuid,
         "-O", "has_journal,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,extra_isize,dir_nlink,64bit,^resize_inode",
         "-J", "size=16", "-E", f"offset={FIRST * SECTOR},hash_seed={seed},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard",
         "-d", root, path, f"{(size_bytes - FIRST * SECTOR) // 1024}k"], "make the file system", env)


def install_grub(path, size_bytes, work):
    config = work / "grub-early.cfg"
    config.write_text("set root=(hd0,msdos1)\nset prefix=(hd0,msdos1)/boot/grub\nconfigfile /boot/grub/grub.cfg\n")
    core = work / "core.img"
    run(["grub-mkimage", "-O", "i386-pc", "-d", GRUB, "-c", config, "-p", "(hd0,msdos1)/boot/grub", "-o", core, *GRUB_MODULES], "make GRUB's core image")
    core_bytes = core.read_bytes()
    if len(core_bytes) > (FIRST - 1) * SECTOR:
        raise BuildError("cannot install GRUB", "its core image is too large", "take modules out of GRUB_MODULES")
    with open(f"{GRUB}/boot.img", "rb") as f:
        boot = f.read(440)
    signature = struct.pack("<IH", 0x636F7070, 0)
    nr_sectors = size_bytes // SECTOR - FIRST
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", FIRST, nr_sectors)
    with open(path, "r+b") as disk:
        disk.write(boot + signature + entry + bytes(48) + b"\x55\xaa")
        disk.write(core_bytes)


def make_disk(here, work, root, output, size_bytes, name, epoch):
    raw = work / "disk.raw"
    with open(raw, "wb") as f:
        os.truncate(f.fileno(), size_bytes)
    make_filesystem(raw, root, size_bytes, name, epoch, stat_shim(here, work))
    install_grub(raw, size_bytes, work)
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-m", "1", "-o", "compat=1.1,lazy_refcounts=off", raw, output], "convert the disk to qcow2")
    raw.unlink()
