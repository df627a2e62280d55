"""Man page and --help of the daemon name the same options."""
import re
import subprocess
from pathlib import Path

from coppice import BUILD


def test_coppiced_options():
    """Would catch: an option without a manual, or a manual of an option that is gone."""
    text = subprocess.run([BUILD / "src/daemon/coppiced", "--help"], capture_output=True, text=True, check=True).stdout
    helped = set(re.findall(r"--([a-z][a-z-]+)", text)) - {"help"}
    page = (Path(__file__).parents[2] / "docs/man/coppiced.8").read_text().replace("\\-", "-")
    described = set(re.findall(r"^\.(?:BR|B|IP|TP).*?--([a-z][a-z-]+)", page, re.M)) - {"help"}
    described = {o for o in described if not o.startswith("memory-limit-")}
    assert len(helped) > 10
    assert helped <= described, helped - described
    mentioned = set(re.findall(r"--([a-z][a-z-]+)", page))
    foreign = {"network", "ssh", "kernel", "qemu-arg", "help", "accel", "stop"}
    assert mentioned - foreign <= helped | {"help"}, mentioned - foreign - helped
