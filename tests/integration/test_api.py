"""The daemon keeps to docs/openapi.json: every path in it is called, every answer has its form."""
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
from coppice import DEADLINE_S, Console, minimal_machine, wait_until  # noqa: F401

CONTRACT = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text())
called = set()


def schema_of(method, path, status):
    """The JSON schema of an answer, or None when it has no JSON."""
    operation = CONTRACT["paths"][path][method.lower()]
    response = operation["responses"].get(str(status)) or operation["responses"]["default"]
    if "$ref" in response:
        response = CONTRACT["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response.get("content", {}).get("application/json")
    return content and {**content["schema"], "components": CONTRACT["components"]}


def check(daemon, method, path, status, body=None, query="", **names):
    called.add((method.lower(), path))
    request = CONTRACT["paths"][path][method.lower()].get("requestBody")
    if body is not None and status < 400:
        schema = request["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**schema, "components": CONTRACT["components"]})
    got, content_type, data = daemon.request(method, path.format(**names) + query, body)
    assert got == status, data
    schema = schema_of(method, path, status)
    if schema is None:
        return data
    assert content_type == "application/json"
    answer = json.loads(data)
    jsonschema.validate(answer, schema)
    return answer


def test_every_path(daemon, tmp_path):
    """Would catch: an answer that is not what the contract says."""
    disk = tmp_path / "d.raw"
    disk.touch()
    os.truncate(disk, 1 << 20)
    machine = dict(minimal_machine(), name="m", network="user", display="vga", ssh=True, cpus=1,
                   disks=[{"path": str(disk), "format": "raw"}], extra_args=["-rtc", "base=utc"])
    assert check(daemon, "GET", "/v1/version", 200)["api"] == 1
    assert check(daemon, "GET", "/v1/openapi.json", 200) == CONTRACT
    check(daemon, "GET", "/v1/doctor", 200)
    check(daemon, "GET", "/v1/stats", 200)
    assert b"# TYPE coppice_paid_bytes gauge\n" in check(daemon, "GET", "/metrics", 200)
    assert check(daemon, "GET", "/v1/vms", 200)["vms"] == []
    vm = check(daemon, "POST", "/v1/vms", 201, machine)
    assert vm["ssh_port"] and vm["vnc_socket"]
    daemon.ready("m")
    assert check(daemon, "GET", "/v1/vms", 200, query="?memory=true")["vms"][0]["memory"]
    check(daemon, "GET", "/v1/vms/{name}", 200, name="m")
    check(daemon, "POST", "/v1/vms/{name}/pause", 200, name="m")
    check(daemon, "POST", "/v1/vms/{name}/resume", 200, name="m")
    assert check(daemon, "GET", "/v1/vms/{name}/screenshot", 200, name="m").startswith(b"\x89PNG")
    engine = check(daemon, "GET", "/v1/doctor", 200)["engine"]
    assert check(daemon, "GET", "/v1/vms/{name}", 200, name="m")["engine"] == engine
    check(daemon, "POST", "/v1/vms/{name}/evict", 200 if engine == "pager" else 409, {"bytes": 1 << 20}, name="m")
    check(daemon, "POST", "/v1/vms/{name}/freeze", 201, {"template": "t"}, name="m")
    check(daemon, "GET", "/v1/templates", 200)
    check(daemon, "GET", "/v1/templates/{name}", 200, name="t")
    report = check(daemon, "GET", "/v1/templates/{name}", 200, query="?verify=true", name="t")
    assert all(part["ok"] for part in report["checks"])
    check(daemon, "POST", "/v1/templates/{name}/clone", 201, {"count": 1, "names": ["c"]}, name="t")
    check(daemon, "POST", "/v1/vms/{name}/fork", 201, {"count": 1, "names": ["f"], "ssh": True}, name="c")
    assert len(check(daemon, "GET", "/v1/stats", 200)["vms"]) == 3
    for name in ("c", "f"):
        check(daemon, "DELETE", "/v1/vms/{name}", 204, query="?force=true", name=name)
    check(daemon, "POST", "/v1/vms/{name}/stop", 200, {"force": True}, name="m")
    check(daemon, "POST", "/v1/vms/{name}/start", 200, name="m")
    check(daemon, "DELETE", "/v1/vms/{name}", 409, name="m")
    check(daemon, "DELETE", "/v1/templates/{name}", 204, name="t")
    check(daemon, "POST", "/v1/vms/{name}/freeze", 400, {"template": ""}, name="m")
    for path, operations in CONTRACT["paths"].items():
        for method in operations:
            if method != "parameters" and not path.endswith(("/console", "/vnc")):
                assert (method, path) in called, f"{method} {path} was not called"


def test_every_route_is_in_the_contract():
    """Would catch: a route of the daemon that the contract lacks."""
    source = (Path(__file__).parents[2] / "src/daemon/api.c").read_text()
    routes = re.findall(r'\{"(GET|POST|DELETE)", "([^"]+)"', source)
    assert len(routes) > 15
    for method, path in routes:
        assert method.lower() in CONTRACT["paths"][path.replace("*", "{name}")], path


@pytest.mark.parametrize("method, path, status, code", [
    ("GET", "/", 404, "not-found"), ("GET", "/v2/vms", 404, "not-found"), ("PUT", "/v1/vms", 400, "bad-request"),
    ("GET", "/v1/vms/a/b/c", 404, "not-found"), ("GET", "/v1/vms?x=1", 400, "bad-request"),
    ("GET", "/v1/vms?memory=perhaps", 400, "bad-request"), ("GET", "/v1/vms/%2e%2e", 404, "not-found"),
    ("GET", "/v1/vms/" + "x" * 5000, 404, "not-found")])
def test_what_is_not_in_the_contract(daemon, method, path, status, code):
    """Would catch: a request that is answered though nothing says how, or in another form."""
    got, content_type, data = daemon.request(method, path)
    answer = json.loads(data)
    jsonschema.validate(answer, {"$ref": "#/components/schemas/Error", "components": CONTRACT["components"]})
    assert (got, answer["error"]["code"]) == (status, code)


def test_console_viewers(daemon):
    """Would catch: a second viewer that misses what came before, or takes the console from the first."""
    daemon.ready_vm()
    with daemon.console("m") as first, daemon.console("m") as second:
        first.send(b"echo one-''two\n")
        for viewer in (first, second):
            viewer.until(b"one-two\r\n")
    with daemon.console("m") as late:
        late.until(b"minimal ready")


def test_console_that_floods(daemon):
    """Would catch: a daemon that keeps all that a guest prints when nobody reads it."""
    daemon.ready_vm()
    rss = lambda: int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())[1])
    before = rss()
    stuck = daemon.console("m")  # a viewer that never reads
    with daemon.console("m") as console:
        console.send(b"dd if=/dev/zero bs=1k count=3000 2>/dev/null | tr '\\0' x; echo flood-''over\n")
        console.until(b"flood-over")
    assert rss() - before < 40 * 1024
    stuck.ws.close()
    assert daemon.sh("m", "echo ok") == "ok\n"


def rfb_greeting(connection):
    return connection.recv(12)


def test_vnc(daemon):
    """Would catch: a VNC socket or proxy path that leads nowhere, or to another VM."""
    import socket

    import websocket
    vm = daemon.ready_vm(display="vga")
    for _ in range(2):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE_S)
        sock.connect(vm["vnc_socket"])
        assert rfb_greeting(sock) == b"RFB 003.008\n"
        sock.close()
    for _ in range(2):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE_S)
        sock.connect(daemon.socket)
        ws = websocket.create_connection("ws://localhost/v1/vms/m/vnc", socket=sock, timeout=DEADLINE_S)
        assert ws.recv() == b"RFB 003.008\n"
        ws.send_binary(b"RFB 003.008\n")
        assert ws.recv() == b"\x01\x01"  # one security type: none
        ws.send_binary(b"\x01")
        ws.close()
    assert oct(os.stat(vm["vnc_socket"]).st_mode & 0o777) == "0o600"
    assert daemon.sh("m", "echo ok") == "ok\n"


def test_each_vm_is_its_own_user_in_a_sandbox(daemon):
    """Would catch: a QEMU with the daemon's rights, or one that can read what others have."""
    daemon.ready_vm()
    daemon.freeze("m", "t")
    [c] = daemon.clone("t")
    uids = set()
    for name in ("m", c):
        status = Path(f"/proc/{daemon.vm(name)['pid']}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        uids.add(tuple(fields["Uid"].split()))
        assert fields["Seccomp"].strip() == "2" and fields["NoNewPrivs"].strip() == "1"
        assert int(fields["CapEff"], 16) == 0 or os.geteuid() != 0
        # No descriptor of the daemon's, and nothing that could write the template.
        for fd in Path(f"/proc/{daemon.vm(name)['pid']}/fd").iterdir():
            target = os.readlink(fd)
            assert "coppiced" not in target and "vm.json" not in target
            if name == c and str(daemon.ram_dir()) in target:
                flags = int(re.search(r"flags:\s+(\d+)", Path(str(fd).replace("/fd/", "/fdinfo/")).read_text())[1], 8)
                assert flags & os.O_ACCMODE == os.O_RDONLY
    if os.geteuid() == 0:
        assert len(uids) == 2 and all(uid not in ("0",) for four in uids for uid in four)
    for path in (daemon.dir, daemon.ram_dir()):
        assert oct(path.stat().st_mode & 0o777) == "0o700"


def test_stats_add_up(daemon):
    """Would catch: figures that are not the host's."""
    daemon.ready_vm()
    daemon.freeze("m", "t")
    names = daemon.clone("t", 3)
    daemon.sh(names[0], "memtool fill 24 1")
    stats = daemon.api("GET", "/v1/stats")
    total, host = stats["total"], stats["host"]
    private = {vm["name"]: vm["memory"]["private_bytes"] for vm in stats["vms"]}
    assert 24 << 20 <= private[names[0]] < 40 << 20
    assert private[names[1]] < 8 << 20
    assert total["given_bytes"] == 4 * (128 << 20)
    if host["cgroup"]:
        parts = total["private_bytes"] + total["vmm_bytes"] + total["shared_bytes"]
        known = host["anon_bytes"] + host["shmem_bytes"]
        # The daemon's own memory is in the cgroup and in no VM's part.
        daemon_kib = int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())[1])
        assert abs(parts + daemon_kib * 1024 - known) < known * 0.05
        assert total["paid_bytes"] >= known * 0.95
