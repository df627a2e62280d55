"""coppice-agent, compiled from its sources, which stand beside the builder: ../src/guest and ../src/proto."""
from .step import BuildError, run

TOOLS = {"musl-gcc": "musl-tools", "gcc": "gcc"}
PATH = "usr/sbin/coppice-agent"


def sources(here):
    """What goes into the program, and so into the hash that tells whether an image is current."""
    src = here.parent / "src"
    found = sorted([*src.glob("guest/agent*"), *src.glob("proto/agent*"), *src.glob("guest/build-agent")])
    if not (src / "guest/build-agent").is_file():
        raise BuildError("cannot build the agent", f"its sources are not in {src}", "take image/ and src/ from the same version of coppice")
    return found


def compile_agent(here, work):
    output = work / "coppice-agent"
    run([here.parent / "src/guest/build-agent", output], "compile the agent")
    return output.read_bytes()
