"""image.json: what an image is made of and how to start it; and the hash that tells whether it is current."""
import hashlib
import json
import os

from . import agent

FORMAT = 1
SHARED = ("build", "lib", "agent")


def inputs_hash(here, name, options):
    """Hash over the builder's shared files, the image's own files, the agent's (names, modes, bytes) and the options."""
    digest = hashlib.sha256(json.dumps([FORMAT, name, options]).encode())
    files = agent.sources(here)
    for top in (*SHARED, name):
        path = here / top
        files += [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    for path in sorted(files):
        data = path.read_bytes()
        digest.update(f"{os.path.relpath(path, here)} {path.stat().st_mode & 0o111:o} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def is_current(out, inputs):
    try:
        held = json.loads((out / "image.json").read_text())
        return (held["format"] == FORMAT and held["inputs_sha256"] == inputs
                and all((out / held[key]).is_file() for key in ("disk", "kernel", "initrd") if key in held))
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Manifest(dict):
    def __init__(self, name, inputs):
        super().__init__(format=FORMAT, name=name)
        self.inputs = inputs

    def write(self, path):
        body = {**self, "inputs_sha256": self.inputs}
        lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in body.items())
        path.write_text("{\n" + lines + "\n}\n")
