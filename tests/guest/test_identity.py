"""A clone's steps, hooks, and what programs inside ask for."""
import json
import os
import struct
import subprocess
import time

import wire

ID = "0123456789abcdef0123456789abcdef"
STEPS = ["thaw", "clock", "random", "hostname", "machine-id", "network", "ssh-keys", "generation"]


def test_steps_in_a_namespace_of_its_own(clone_machine):  # Fails if a step is missing, out of order, or only says that it did it.
    m = clone_machine
    with open(m.root + "/etc/hosts", "w", encoding="utf-8") as f:
        f.write("127.0.0.1\tlocalhost\n127.0.1.1 " + os.uname().nodename + " alias # " + os.uname().nodename + "\n")
    with open(m.root + "/var/lib/dbus/machine-id", "w", encoding="utf-8") as f:
        f.write("old\n")
    m.hook("10-first", 'echo "$COPPICE_NAME $COPPICE_INDEX $COPPICE_COUNT $COPPICE_TEMPLATE $COPPICE_PARAM_A_B"; hostname')
    m.hook("20-fails", "echo no luck; exit 3")
    m.hook("not.this~", "touch /tmp/never")
    assert m.host.hello(flags=1)[0] == wire.HELLO_ACK
    m.host.identify(index=2, count=5, hostname="clone-2", machine_id=ID, params=["a.b=it's"], nics=[(0, bytes(6), bytes(6))])
    steps = m.host.identified()
    assert list(steps)[:8] == STEPS and list(steps)[8:] == ["hook 10-first", "hook 20-fails"]
    assert steps["hostname"] == ("done", "clone-2") and steps["machine-id"] == ("done", ID)
    assert steps["network"][0] == "failed" and "no card 0" in steps["network"][1]
    assert steps["hook 10-first"] == ("done", "clone-2"), "hostname is set before hooks"
    assert steps["hook 20-fails"] == ("failed", "exit 3: no luck")
    assert m.read("/etc/hostname") == "clone-2\n" and m.read("/etc/machine-id") == ID + "\n" == m.read("/var/lib/dbus/machine-id")
    assert m.read("/etc/hosts") == "127.0.0.1\tlocalhost\n127.0.1.1 clone-2 alias # " + os.uname().nodename + "\n"
    said = subprocess.run(["sh", "-c", f". {m.root}/run/coppice/identity; echo $COPPICE_ROLE,$COPPICE_INDEX,$COPPICE_PARAM_A_B"],
                          stdout=subprocess.PIPE, text=True, check=True).stdout
    assert said == "clone,2,it's\n"
    assert "c-1 2 5 t it's" in m.read("/run/coppice/hooks.log")
    first = m.read("/run/coppice/generation")
    m.host.identify(hostname="clone-3", machine_id=ID)
    assert m.host.identified()["hostname"] == ("done", "clone-3")
    assert m.read("/run/coppice/generation") != first
    assert m.read("/etc/hosts").count("clone-3") == 1


def test_hooks_that_hang_flood_and_stay(machine, host):  # Fails if a hook holds up a clone for ever, or fills memory.
    machine.hook("1-hangs", "echo waiting; trap '' TERM; sleep 1000")
    machine.hook("2-floods", "yes | head -c 20000000; echo; echo end")
    machine.hook("3-stays", "sleep 1000 & echo left one behind")
    machine.hook("4-dies", "kill -9 $$")
    machine.hook("5-silent", "exit 0")
    begun = time.monotonic()
    host.identify(hook_ms=1500)
    host.ping()
    assert host.run(1, ["echo", "meanwhile"])[3] == b"meanwhile\n"
    steps = host.identified()
    assert time.monotonic() - begun < 30
    assert steps["hook 1-hangs"] == ("timeout", "killed: waiting")
    assert steps["hook 2-floods"] == ("done", "end")
    assert steps["hook 3-stays"] == ("done", "left one behind")
    assert steps["hook 4-dies"][0] == "failed" and "signal 9" in steps["hook 4-dies"][1]
    assert steps["hook 5-silent"] == ("done", "")
    assert len(machine.read("/run/coppice/hooks.log")) < 30000


def test_a_new_session_ends_the_steps(machine, host):  # Fails if two runs of hooks go on at once.
    machine.hook("1-slow", f"echo $$ >{machine.root}/pid; exec sleep 1000")
    host.identify(hook_ms=100000)
    end = time.monotonic() + 20
    while not (os.path.exists(machine.root + "/pid") and machine.read("/pid")) and time.monotonic() < end:
        time.sleep(0.01)
    pid = int(machine.read("/pid"))
    assert host.hello(flags=1)[0] == wire.HELLO_ACK
    machine.hook("1-slow", "echo quick")
    host.identify()
    assert host.identified()["hook 1-slow"] == ("done", "quick")
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")


def test_nothing_outside_the_directory(machine, host):  # Fails if a test of the agent changes the machine it runs on.
    name, clock = os.uname().nodename, time.time()
    host.identify(hostname="other", wall_ns=10**18, nics=[(0, bytes(6), b"\2\0\0\0\0\1")])
    steps = host.identified()
    assert os.uname().nodename == name and time.time() - clock < 1000
    assert steps["clock"][0] == steps["random"][0] == steps["network"][0] == "skipped"


def test_ssh_keys(machine, host):  # Fails if a clone keeps its template's key.
    os.makedirs(machine.root + "/etc/ssh")
    key = machine.root + "/etc/ssh/ssh_host_ed25519_key"
    with open(key, "w", encoding="utf-8") as f:
        f.write("everybody's")
    host.identify()
    assert host.identified()["ssh-keys"][0] == "skipped"
    host.identify(flags=1)
    result, why = host.identified()["ssh-keys"]
    if why == "there is no ssh-keygen":
        assert result == "skipped"
        return
    assert result == "done" and "PRIVATE KEY" in machine.read("/etc/ssh/ssh_host_ed25519_key") and os.path.exists(key + ".pub")


def test_quiesce_and_thaw(machine, host):  # Fails if the answers are wrong. (--root: no file system of this machine is frozen.)
    host.send(wire.QUIESCE, 1, struct.pack("<I", 20000))
    kind, _, payload = host.next_of(1)
    r = wire.Reader(payload)
    assert kind == wire.QUIESCED and r.ints("I")[0] == 0 and r.text() == ""
    host.send(wire.QUIESCE, 2, struct.pack("<I", 20000))
    assert host.next_of(2)[0] == wire.ERROR
    host.send(wire.THAW, 3)
    assert host.next_of(3)[0] == wire.THAWED
    host.send(wire.QUIESCE, 4, struct.pack("<I", 20000))
    assert host.next_of(4)[0] == wire.QUIESCED
    assert host.hello()[0] == wire.HELLO_ACK, "a new session thaws"
    host.send(wire.QUIESCE, 5, struct.pack("<I", 1))
    host.next_of(5)
    end = time.monotonic() + 10
    while True:  # its time limit has to end it
        host.send(wire.QUIESCE, 6, struct.pack("<I", 20000))
        if host.next_of(6)[0] == wire.QUIESCED:
            break
        assert time.monotonic() < end


def test_hold(machine, host):  # Fails if it is done where it should not be, or not answered.
    """--root: this machine's programs go on."""
    host.send(wire.HOLD, 1, struct.pack("<I", 900))
    assert host.next_of(1)[0] == wire.ERROR
    host.send(wire.THAW, 2)
    assert host.next_of(2)[0] == wire.THAWED


def test_fork_from_inside(machine, host):  # Fails if the caller does not learn who it is, or a shell can't read it.
    client = machine.client("fork", "3", "-p", "a=x y", "-p", "b=it's")
    kind, ident, payload = host.wait(lambda f: f[0] == wire.REQUEST)
    r = wire.Reader(payload)
    assert r.ints("BI") == (2, 3) and r.text() == "" and r.texts() == ["a=x y", "b=it's"]
    r.end()
    host.send(wire.RESPONSE, ident, struct.pack("<BII", 1, 0, 3) + wire.text("") + wire.text("vm") + wire.text("t")
              + wire.texts(["clone.0=vm-1"]))
    out, err = client.communicate(timeout=20)
    assert client.returncode == 0, err
    assert out == ("COPPICE_ROLE='parent'\nCOPPICE_NAME='vm'\nCOPPICE_INDEX='0'\nCOPPICE_COUNT='3'\nCOPPICE_TEMPLATE='t'\n"
                   "COPPICE_CLONE_0='vm-1'\n")


def test_who_waits_in_a_clone_is_told_so(machine, host):  # Fails if fork() does not return in the clone.
    client = machine.client("freeze", "point")
    kind, _, payload = host.wait(lambda f: f[0] == wire.REQUEST)
    assert wire.Reader(payload).ints("BI") == (1, 0)
    assert host.hello(flags=1)[0] == wire.HELLO_ACK  # as in a clone
    machine.hook("1", "sleep 0.3")
    host.identify(index=1, count=2, name="c-1", template="point", params=["k=v'w"])
    host.identified()
    out, err = client.communicate(timeout=20)
    assert client.returncode == 0, err
    assert out.splitlines() == ["COPPICE_ROLE='clone'", "COPPICE_NAME='c-1'", "COPPICE_INDEX='1'", "COPPICE_COUNT='2'",
                                "COPPICE_TEMPLATE='point'", "COPPICE_PARAM_K='v'\\''w'"]


def test_requests_that_fail(machine):  # Fails if a caller waits for ever, or takes a refusal for success.
    client = machine.client("info")
    _, err = client.communicate(timeout=20)
    assert client.returncode == 1 and "not connected" in err
    host = machine.host
    assert host.hello()[0] == wire.HELLO_ACK
    client = machine.client("freeze", "x")
    _, ident, _ = host.wait(lambda f: f[0] == wire.REQUEST)
    host.send(wire.RESPONSE, ident, struct.pack("<BII", 0, 0, 0) + wire.text("the owner of this VM does not allow it") + wire.text("") * 2 + wire.texts([]))
    assert client.communicate(timeout=20)[1] == "coppice-agent: the owner of this VM does not allow it\n" and client.returncode == 1
    client = machine.client("freeze", "x", "--timeout", "1")
    assert "in time" in client.communicate(timeout=20)[1] and client.returncode == 1
    client = machine.client("freeze", "x")
    host.wait(lambda f: f[0] == wire.REQUEST)
    host.wait(lambda f: f[0] == wire.REQUEST)
    assert host.hello()[0] == wire.HELLO_ACK  # the daemon was restarted
    assert "begun anew" in client.communicate(timeout=20)[1] and client.returncode == 1
    for args in (["fork", "0"], ["fork", "x"], ["freeze"], ["freeze", "a", "b"], ["nothing"]):
        client = machine.client(*args)
        assert client.wait(20) == 2, args


def test_info_as_json(machine, host):  # Fails if a value can break out of its quotes.
    client = machine.client("info", "--json")
    _, ident, payload = host.wait(lambda f: f[0] == wire.REQUEST)
    assert payload[0] == 3
    host.send(wire.RESPONSE, ident, struct.pack("<BII", 2, 1, 4) + wire.text("") + wire.text('n"\\') + wire.text("t") + wire.texts(["k=a\nb"]))
    assert json.loads(client.communicate(timeout=20)[0]) == {"role": "clone", "name": 'n"\\', "index": 1, "count": 4, "template": "t",
                                                             "params": {"k": "a\nb"}}


def test_the_socket_is_roots(machine):  # Fails if a user of the guest could freeze it.
    assert os.stat(machine.root + "/run/coppice/agent.sock").st_mode & 0o777 == 0o600
