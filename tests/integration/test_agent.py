"""The agent in real guests: identity, exec, cp, run-in, fork from inside, quiesce."""
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from coppice import BUILD, IMAGES, ApiError, Exec, wait_until

BIN = os.path.abspath(os.environ.get("COPPICE_BIN", "build/src/cli/coppice"))
LONG = os.environ.get("COPPICE_LONG") == "1"  # also the tests that take minutes


def coppice(daemon, *args, status=0, **more):
    """The client on the daemon's folder."""
    if "input" not in more:
        more.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([BIN, "--dir", str(daemon.dir), *args], capture_output=True, timeout=300, **more)
    assert status is None or done.returncode == status, (args, done)
    return done


def every(daemon, names, script):
    """Output of a script in each VM, side by side."""
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(names, pool.map(lambda name: daemon.guest(name, script), names)))


# Identity.

def test_clones_are_machines_of_their_own(daemon):
    """Would catch: two clones with the same random numbers, name, machine id or MAC."""
    count = 64 if LONG else 32
    daemon.agent_template(network="user")
    answer = daemon.api("POST", "/v1/templates/t/clone", {"count": count, "labels": {"n": "x"}})
    names = [vm["name"] for vm in answer["vms"]]
    for vm in answer["vms"]:
        assert vm["agent"]["state"] == "ready", vm
        assert all(step["ok"] for step in vm["agent"]["steps"]), vm["agent"]
        assert vm["agent"]["ready_ms"] > 0 and vm["labels"] == {"n": "x"}
    seen = every(daemon, names, "head -c 32 /dev/urandom | md5sum; hostname; cat /etc/machine-id; "
                                "cat /sys/class/net/eth0/address; cat /proc/sys/kernel/random/uuid")
    rows = [out.split("\n") for out in seen.values()]
    for column in range(5):
        assert len({row[column] for row in rows}) == count, [row[column] for row in rows]
    assert {row[1] for row in rows} == set(names)
    for row in rows:
        assert re.fullmatch("[0-9a-f]{32}", row[2]) and int(row[3][:2], 16) & 3 == 2
    parent = daemon.guest("m", "hostname; cat /sys/class/net/eth0/address")
    assert not set(parent.split()) & {cell for row in rows for cell in row}


@pytest.mark.parametrize("cpus", [1, 2])
def test_no_number_is_drawn_twice(daemon, cpus):
    """Would catch: a program that goes on in two clones and draws the same numbers in both, before their random state is theirs.
    (Without the hold, most of 8 clones draw some hundred numbers that another draws as well.)"""
    daemon.agent_vm("m", cpus=cpus)
    daemon.guest("m", "cat > /tmp/draw; chmod +x /tmp/draw; for i in 1 2; do setsid /tmp/draw /tmp/drawn-$i >/dev/null 2>&1 </dev/null & done",
                 stdin=(BUILD / "tests/guest/draw").read_bytes())
    assert daemon.freeze("m", "t")["quiesce"]["held"]
    names = daemon.clone("t", 8)
    numbers = []
    for name in names:
        wait_until(lambda: daemon.exec(name, "test", "-e", "/tmp/drawn-1", "-a", "-e", "/tmp/drawn-2").status == 0, "the numbers")
        numbers.append(set(daemon.guest(name, "cat /tmp/drawn-*").splitlines()))
    # What was drawn before the freeze all have; the next draw should be different in each.
    before = set.intersection(*numbers)
    assert before, "the rings no longer reach back to the freeze"
    for i, a in enumerate(numbers):
        for b in numbers[:i]:
            assert not (a & b) - before, f"{len((a & b) - before)} numbers were drawn by two clones"


def clock_offset(daemon, name):
    """How far the guest's clock is from the host's: the best of some tries, as the way there takes time."""
    best = None
    for _ in range(8):
        # The kernel's own words: the time since the start, and what the wall clock is ahead of it.
        script = "read x; sed -n '/^now at/p; /clock 1:/,/offset/{/offset/{p;q}}' /proc/timer_list"
        with Exec(daemon, f"/v1/vms/{name}/exec", {"argv": ["sh", "-c", script], "stdin": True}) as e:
            while not e.credit:
                e.step()
            before = time.time()
            e.write(b"go\n")
            done = e.finish()
            after = time.time()
            now, offset = re.search(rb"now at (\d+) nsecs.*offset: *(\d+) nsecs", done.out, re.S).groups()
            stamp = (int(now) + int(offset)) / 1e9
        if best is None or after - before < best[0]:
            best = (after - before, stamp - (before + after) / 2)
    return best[1]


@pytest.mark.parametrize("age_s", [0, 3600])
def test_clocks(daemon, age_s):
    """Would catch: a clone whose clock stands where its template's stood."""
    daemon.agent_vm("m")
    if age_s:
        daemon.guest("m", f"date -s @$(($(date +%s) - {age_s}))")
    daemon.freeze("m", "t")
    for name in daemon.clone("t", 3):
        offset = clock_offset(daemon, name)
        assert abs(offset) < 0.1, f"{name} is {offset:.3f} s off"


def test_parameters_and_position(daemon):
    """Would catch: hooks that are not run or in another order, parameters that do not arrive."""
    daemon.agent_vm("m")
    daemon.guest("m", "mkdir -p /etc/coppice/clone.d; for n in 20-b 10-a; do"
                      " printf '#!/bin/sh\\n(echo %s; env) >> /tmp/hooks\\n' $n > /etc/coppice/clone.d/$n;"
                      " chmod +x /etc/coppice/clone.d/$n; done")
    daemon.freeze("m", "t")
    answer = daemon.api("POST", "/v1/templates/t/clone", {"count": 2, "params": {"color": "blue green", "n": "1"}})
    for index, vm in enumerate(answer["vms"]):
        said = daemon.guest(vm["name"], "cat /tmp/hooks")
        assert said.index("10-a\n") < said.index("20-b\n")
        assert "blue green" in said
        assert re.search(rf"INDEX={index}\b", said) and re.search(r"COUNT=2\b", said)


HOOKS = {"fails": "exit 7", "hangs": "exec sleep 100000", "floods": "exec yes",
         "lingers": "sleep 100000 & exit 0", "dies": "kill -9 $$"}


@pytest.mark.parametrize("kind", HOOKS)
def test_bad_hooks(daemon, kind):
    """Would catch: a clone that is never ready, or says that all is well, because of a user's hook."""
    daemon.agent_vm("m")
    daemon.guest("m", "mkdir -p /etc/coppice/clone.d; cat > /etc/coppice/clone.d/10-bad; chmod +x /etc/coppice/clone.d/10-bad",
                 stdin=f"#!/bin/sh\n{HOOKS[kind]}\n".encode())
    daemon.freeze("m", "t")
    answer = daemon.api("POST", "/v1/templates/t/clone", {"count": 1, "ready_timeout_ms": 120000})
    agent = answer["vms"][0]["agent"]
    bad = [step for step in agent["steps"] if not step["ok"]]
    assert agent["state"] == "ready", agent
    assert [("10-bad" in step["name"]) for step in bad] == ([] if kind == "lingers" else [True]), agent
    assert daemon.guest(answer["vms"][0]["name"], "echo ok") == "ok\n"


def test_template_without_agent(daemon):
    """Would catch: a clone that waits for an agent that is not there, or keeps quiet about it."""
    daemon.agent_vm("m")
    daemon.remove_agent("m")
    daemon.freeze("m", "t")
    assert not daemon.templates()["t"]["agent"]
    start = time.monotonic()
    answer = daemon.api("POST", "/v1/templates/t/clone", {"count": 2})
    assert time.monotonic() - start < 30 and answer["vms"][0]["agent"]["state"] == "none"
    done = coppice(daemon, "clone", "t")
    assert b"no agent in the template" in done.stdout
    done = coppice(daemon, "run-in", "t", "--", "true", status=125)
    assert b"there was no agent" in done.stderr


# exec.

def test_exec(daemon):
    """Would catch: a status, a stream, a variable, a user or a folder that gets lost on the way."""
    daemon.agent_vm("m")
    done = daemon.exec("m", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.status, done.out, done.err) == (3, b"out\n", b"err\n")
    assert daemon.exec("m", "true").status == 0
    assert daemon.exec("m", "sh", "-c", "kill -9 $$").status == -9
    assert daemon.exec("m", "/nonexistent").status == 127
    assert daemon.exec("m", "/etc/passwd").status == 126
    done = daemon.exec("m", "sh", "-c", "echo $A; pwd; id -u", env={"A": "b c"}, workdir="/tmp", user="root")
    assert done.out == b"b c\n/tmp\n0\n"
    assert daemon.exec("m", "cat", stdin=b"x" * 100000 + b"y").out == b"x" * 100000 + b"y"
    assert daemon.exec("m", "cat").out == b""
    late = daemon.exec("m", "sleep", "1000", timeout_ms=500)
    assert late.error["code"] == "timeout"
    assert daemon.exec("m", "sh", "-c", "tty", tty={"rows": 11, "columns": 33}).out.startswith(b"/dev/")
    assert daemon.exec("m", "stty", "size", tty={"rows": 11, "columns": 33}).out == b"11 33\r\n"
    assert daemon.exec("m", "id", user="nobody-there").error or daemon.exec("m", "id", user="nobody-there").status in (125, 126, 127)
    for bad in ({"argv": []}, {"argv": ["true"], "what": 1}, {"argv": ["true"], "env": {"A=": "x"}}, {"argv": [5]}):
        with Exec(daemon, "/v1/vms/m/exec", bad) as e:
            assert e.finish().error["code"] == "bad-request"


def test_exec_signals_and_terminal(daemon):
    """Would catch: a signal or a size that does not reach the command; a command that outlives its client."""
    daemon.agent_vm("m")
    request = {"argv": ["sh", "-c", "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.1; done"]}
    with Exec(daemon, "/v1/vms/m/exec", request) as e:
        e.until(b"ready")
        e.signal(signal.SIGINT)
        done = e.finish()
        assert (done.status, done.out) == (5, b"ready\ngot\n")
    request = {"argv": ["sh"], "stdin": True, "tty": {"rows": 10, "columns": 20}}
    with Exec(daemon, "/v1/vms/m/exec", request) as e:
        while not e.credit:
            e.step()
        e.kind(4, bytes([0, 44, 0, 55]))
        e.write(b"stty size; echo $$-x\n")
        e.until(b"44 55")
        e.until(b"-x\r\n")
        e.write(b"exit 4\n")
        assert e.finish().status == 4
    with Exec(daemon, "/v1/vms/m/exec", {"argv": ["sh", "-c", "echo pid-$$-; exec sleep 77777"]}) as e:
        e.until(b"-\n")
        pid = e.out.split(b"-")[1].decode()
    wait_until(lambda: daemon.exec("m", "test", "-d", f"/proc/{pid}").status == 1, "the command to go with its client")


@pytest.mark.parametrize("mib", [100] + ([1024] if LONG else []))
def test_much_through_exec(daemon, mib):
    """Would catch: a byte that is lost, doubled or swapped in a long stream, or a side that keeps all of it."""
    daemon.agent_vm("m", memory_mib=128)
    rss = lambda: int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{daemon.process.pid}/status").read())[1])
    # The sanitizer keeps what was freed, up to 256 MiB of it.
    most = 60 + (256 if "libasan" in open(f"/proc/{daemon.process.pid}/maps").read() else 0)
    before = rss()
    block = os.urandom(1 << 20)
    digest = hashlib.md5()
    with Exec(daemon, "/v1/vms/m/exec", {"argv": ["md5sum"], "stdin": True}, 900) as e:
        for i in range(mib):
            piece = i.to_bytes(4, "big") + block[4:]
            digest.update(piece)
            e.write(piece)
        e.kind(0)
        assert e.finish().out.split()[0].decode() == digest.hexdigest()
    script = f"dd if=/dev/zero bs=1M count={mib} 2>/dev/null"
    with Exec(daemon, "/v1/vms/m/exec", {"argv": ["sh", "-c", script]}, 900) as e:
        e.sum = hashlib.md5()
        assert e.finish().status == 0
        assert e.out_bytes == mib << 20
        assert e.sum.hexdigest() == hashlib.md5(bytes(mib << 20)).hexdigest()
    assert rss() - before < most * 1024


def test_a_client_that_does_not_read(daemon):
    """Would catch: output that fills the daemon's memory, or stops other commands of the VM."""
    daemon.agent_vm("m")
    with Exec(daemon, "/v1/vms/m/exec", {"argv": ["yes"]}):
        assert daemon.guest("m", "echo ok") == "ok\n"
        with Exec(daemon, "/v1/vms/m/exec", {"argv": ["sleep", "1000"], "stdin": True}) as e:
            while not e.credit:
                e.step()
            sent = e.credit
            e.write(b"x" * sent)  # nobody reads it there
            assert daemon.guest("m", "echo ok") == "ok\n"
            e.kind(0, b"x" * 600000)  # more than there was credit for
            while e.step():
                pass
            assert not e.result
    assert daemon.guest("m", "echo ok") == "ok\n"


def test_many_at_once(daemon):
    """Would catch: commands whose output or status is mixed up."""
    count = 200
    daemon.agent_vm("m", memory_mib=256)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(daemon.exec, "m", "sh", "-c", f"read x; echo $x-{i}; exit {i % 100}", stdin=f"in{i}\n".encode())
                   for i in range(count)]
        for i, future in enumerate(futures):
            done = future.result()
            assert (done.status, done.out) == (i % 100, f"in{i}-{i}\n".encode()), (i, done)


def test_client_exec(daemon):
    """Would catch: what the client makes of a command: statuses, streams, labels."""
    daemon.agent_template()
    done = coppice(daemon, "exec", "m", "--", "sh", "-c", "cat; echo err >&2; exit 4", input=b"abc", status=4)
    assert (done.stdout, done.stderr) == (b"abc", b"err\n")
    coppice(daemon, "exec", "m", "--", "sh", "-c", "kill -TERM $$", status=128 + 15)
    coppice(daemon, "exec", "m", "--", "nope", status=127)
    coppice(daemon, "exec", "m", "--timeout", "1", "--", "sleep", "100", status=124)
    assert b"there is no VM" in coppice(daemon, "exec", "nope", "--", "true", status=125).stderr
    assert json.loads(coppice(daemon, "--json", "exec", "m", "--", "echo", "x").stdout)["stdout"] == "x\n"
    coppice(daemon, "clone", "t", "-n", "3", "-l", "kind=a")
    out = coppice(daemon, "exec", "-l", "kind=a", "--", "sh", "-c", "hostname; hostname").stdout.decode()
    assert sorted(out.splitlines()) == sorted(2 * [f"t-{i}: t-{i}" for i in (1, 2, 3)])
    assert len(coppice(daemon, "exec", "--all", "--", "echo", "x").stdout.splitlines()) == 4
    failed = coppice(daemon, "exec", "--all", "--", "sh", "-c", "[ $(hostname) != t-2 ]", status=1)
    assert b"'t-2': exit status 1" in failed.stderr
    coppice(daemon, "exec", "-l", "kind=b", "--", "true", status=125)
    process = subprocess.Popen([BIN, "--dir", str(daemon.dir), "exec", "m", "--", "sh", "-c",
                                "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == b"got\n" and process.wait(60) == 9


def test_cp(daemon, tmp_path):
    """Would catch: a file that changes on the way, a name that lands elsewhere, an error without a reason."""
    daemon.agent_vm("m")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    big = os.urandom(3 << 20)
    (tree / "sub/big").write_bytes(big)
    (tree / "-odd name'").write_text("x")
    (tree / "link").symlink_to("sub/big")
    coppice(daemon, "cp", str(tree), "m:/tmp")
    coppice(daemon, "cp", str(tree), "m:/tmp/other")
    coppice(daemon, "cp", str(tree / "sub/big"), "m:/tmp/one")
    sums = daemon.guest("m", "cd /tmp; md5sum tree/sub/big other/sub/big one tree/link").split()[::2]
    assert set(sums) == {hashlib.md5(big).hexdigest()}
    back = tmp_path / "back"
    back.mkdir()
    coppice(daemon, "cp", "m:/tmp/tree", str(back))
    coppice(daemon, "cp", "m:/tmp/one", str(back / "single"))
    assert (back / "tree/sub/big").read_bytes() == big == (back / "single").read_bytes()
    assert (back / "tree/-odd name'").read_text() == "x" and os.readlink(back / "tree/link") == "sub/big"
    assert sorted(p.name for p in back.iterdir()) == ["single", "tree"]
    for args, says in ((["/nonexistent", "m:/tmp"], "cannot read /nonexistent"), (["m:/nonexistent", str(back)], "nonexistent"),
                       ([str(tree), "m:/no/such/dir"], "there is no folder /no/such"), (["m:/tmp/one", "/no/such/dir"], "cannot write"),
                       ([str(tree), "nope:/tmp"], "there is no VM")):
        assert says in coppice(daemon, "cp", *args, status=1).stderr.decode(), args
    coppice(daemon, "cp", "a", "b", status=2)
    # A guest that sends what was not asked for.
    daemon.guest("m", "mv /bin/tar /bin/tar.real 2>/dev/null || true; mkdir -p /tmp/evil; mkfifo /tmp/evil/pipe; "
                      "ln -s /etc /tmp/evil/etc; touch /tmp/evil/su; chmod 4755 /tmp/evil/su; "
                      "mv /bin/tar.real /bin/tar 2>/dev/null || true")
    done = coppice(daemon, "cp", "m:/tmp/evil", str(back))
    assert b"left out" in done.stderr
    assert not (back / "evil/pipe").exists() and (back / "evil/su").stat().st_mode & 0o7000 == 0


# run-in.

def test_run_in(daemon):
    """Would catch: a throw-away machine that stays, or whose status is lost."""
    env = {**os.environ, "COPPICE_IMAGES": str(IMAGES)}
    done = coppice(daemon, "run-in", "minimal", "--", "sh", "-c", "cat; echo $A; exit 6", input=b"in\n", status=6, env=env)
    assert b"no such" not in done.stderr
    assert "minimal" in daemon.templates(), "made on first use"
    done = coppice(daemon, "run-in", "minimal", "-e", "A=b", "--", "sh", "-c", "cat; echo $A; exit 6", input=b"in\n", status=6)
    assert done.stdout == b"in\nb\n"
    wait_until(lambda: not daemon.vms(), "the clones to go")
    coppice(daemon, "run-in", "minimal", "--timeout", "1", "--", "sleep", "1000", status=124)
    coppice(daemon, "run-in", "minimal", "--", "nope", status=127)
    coppice(daemon, "run-in", "minimal", "--cpus", "9", "--memory-max", "1G", "--", "true")
    done = coppice(daemon, "run-in", "minimal", "--memory-max", "8M", "--", "sh", "-c", "head -c 1000000 /dev/zero > /tmp/a; echo little; "
                   "head -c 30000000 /dev/zero > /tmp/b; echo much", status=137)
    assert done.stdout == b"little\n"
    quota = coppice(daemon, "run-in", "minimal", "--cpus", "0.5", "--", "sh", "-c", "cat /run/coppice/cgroup$(sed s/0::// /proc/self/cgroup)/cpu.max").stdout
    assert quota == b"50000 100000\n"
    assert b"there is no template" in coppice(daemon, "run-in", "nope", "--", "true", status=125).stderr
    out = coppice(daemon, "run-in", "minimal", "--no-network", "--", "sh", "-c", "sleep 1; cat /sys/class/net/eth0/carrier 2>&1; true").stdout
    assert out != b"1\n"
    wait_until(lambda: not daemon.vms(), "the clones to go")


def test_run_in_interrupted(daemon):
    """Would catch: a machine that outlives who asked for it: the client, killed in any way, or the daemon."""
    daemon.agent_template()
    daemon.api("DELETE", "/v1/vms/m?force=true")
    argv = [BIN, "--dir", str(daemon.dir), "run-in", "t", "--", "sh", "-c", "echo ready; exec sleep 10000"]
    for sig, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdout.readline() == b"ready\n"
        assert len(daemon.vms()) == 1
        process.send_signal(sig)
        assert process.wait(60) == status
        wait_until(lambda: not daemon.vms(), "the clone to go")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    daemon.restart()
    assert process.wait(60) == 125 and b"lost" in process.stderr.read()
    assert daemon.vms() == {}


# The agent itself, in trouble.

def test_daemon_killed(daemon):
    """Would catch: an agent that is not found again, a command that hangs or ends as if all were well."""
    daemon.agent_template()
    [clone] = daemon.clone("t")
    running = Exec(daemon, f"/v1/vms/{clone}/exec", {"argv": ["sh", "-c", "echo on; exec sleep 88888"]})
    running.until(b"on\n")
    daemon.restart()
    assert running.finish().error["code"] == "lost"
    for name in ("m", clone):
        daemon.wait_agent(name)
        assert daemon.guest(name, "hostname") == f"{name if name == clone else 'minimal'}\n"
    wait_until(lambda: daemon.exec(clone, "sh", "-c", "ps | grep -q '[s]leep 88888'").status == 1, "the orphan to be killed")
    [late] = daemon.clone("t")
    assert daemon.agent(late)["state"] == "ready"


def test_agent_killed_or_stopped(daemon):
    """Would catch: an agent that is thought to be there, commands that wait for it for ever."""
    daemon.agent_vm("m")
    running = Exec(daemon, "/v1/vms/m/exec", {"argv": ["sh", "-c", "echo on; exec sleep 1000"]})
    running.until(b"on\n")
    daemon.exec("m", "sh", "-c", "kill -9 $(pidof coppice-agent)", timeout_ms=5000)
    assert running.finish().error
    daemon.wait_agent("m")  # its supervisor starts it again
    assert daemon.guest("m", "echo ok") == "ok\n"
    daemon.sh("m", "kill -STOP $(pidof coppice-agent)")
    late = daemon.exec("m", "true", timeout_ms=2000)
    assert late.error
    result = daemon.freeze("m", "stopped", quiesce_timeout_ms=500)
    assert not result["quiesce"]["done"] and result["quiesce"]["reason"]
    answer = daemon.api("POST", "/v1/templates/stopped/clone", {"count": 1, "ready_timeout_ms": 1500})
    agent = answer["vms"][0]["agent"]
    assert agent["state"] in ("connecting", "failed", "none")
    daemon.sh("m", "kill -CONT $(pidof coppice-agent)")
    wait_until(lambda: daemon.exec("m", "true", timeout_ms=5000).status == 0, "the agent to go on")


# Freeze and fork from inside.

def test_not_without_permission(daemon):
    """Would catch: a guest that makes clones of itself though nobody allowed it, or more than were allowed."""
    daemon.agent_vm("m")
    refused = daemon.exec("m", "coppice-agent", "fork", "1")
    assert refused.status != 0 and b"allow" in refused.err
    assert daemon.exec("m", "coppice-agent", "freeze", "x").status != 0
    assert list(daemon.vms()) == ["m"] and daemon.templates() == {}
    daemon.api("PATCH", "/v1/vms/m", {"allow_fork": 2})
    assert daemon.exec("m", "coppice-agent", "fork", "3").status != 0
    assert daemon.exec("m", "coppice-agent", "fork", "100000000").status != 0
    assert daemon.exec("m", "coppice-agent", "freeze", "../x").status != 0
    assert list(daemon.vms()) == ["m"] and daemon.vm("m")["forks_left"] == 2
    assert daemon.exec("m", "coppice-agent", "fork", "2").status == 0
    assert len(daemon.vms()) == 3 and daemon.vm("m")["forks_left"] == 0
    assert daemon.exec("m", "coppice-agent", "fork", "1").status != 0


PARALLEL = r"""
eval "$(coppice-agent fork $1)"
case $COPPICE_ROLE in
parent) echo "parent of $COPPICE_COUNT" > /tmp/result ;;
clone)
    sum=0
    for i in $(seq 1 1000); do
        [ $((i % COPPICE_COUNT)) -ne $COPPICE_INDEX ] || sum=$((sum + i))
    done
    echo $sum > /tmp/part ;;
esac
"""


def test_commands_go_on_in_clones(daemon):
    """Would catch: a command that a clone ends, or that hangs there as nobody reads its output; a terminal's that stays."""
    daemon.agent_vm("m")
    with Exec(daemon, "/v1/vms/m/exec", {"argv": ["sh", "-c", "echo on; yes | head -c 3000000; cat; echo end > /tmp/end; cat /proc/uptime"],
                                         "stdin": True}) as e:
        with Exec(daemon, "/v1/vms/m/exec", {"argv": ["sh", "-c", "echo on; exec sleep 66666"], "tty": {"rows": 10, "columns": 20}}) as t:
            e.until(b"on\n")
            t.until(b"on\r\n")
            daemon.freeze("m", "t")
            names = daemon.clone("t", 2)
            daemon.restart()  # which ends them in m, and only there
    for name in names:
        daemon.wait_agent(name)
        wait_until(lambda: daemon.exec(name, "cat", "/tmp/end").out == b"end\n", "the command to end by itself")
        assert daemon.exec(name, "sh", "-c", "ps | grep -q '[s]leep 66666'").status == 1
    daemon.wait_agent("m")
    assert daemon.exec("m", "test", "-e", "/tmp/end").status == 1


def test_fork_from_inside(daemon):
    """Would catch: a child that does not know its part, or a parent that waits for ever."""
    daemon.agent_vm("m", allow_fork=8)
    done = daemon.exec("m", "sh", "-c", PARALLEL.replace("$1", "4"))
    assert (done.status, done.out) == (0, b""), done
    assert daemon.exec("m", "cat", "/tmp/result").out == b"parent of 4\n"
    children = sorted(set(daemon.vms()) - {"m"})
    assert len(children) == 4
    parts = [int(wait_until(lambda: daemon.exec(c, "cat", "/tmp/part").out, "the child's part")) for c in children]
    assert sum(parts) == 500500 and len(set(parts)) == 4


def test_freeze_from_inside(daemon):
    """Would catch: a template whose clones don't return from the call that made it."""
    daemon.agent_vm("m", allow_fork=1)
    daemon.guest("m", 'eval "$(coppice-agent freeze inner)"; echo $COPPICE_ROLE-$COPPICE_INDEX-$COPPICE_PARAM_K > /tmp/role')
    assert daemon.exec("m", "cat", "/tmp/role").out.startswith(b"parent-")
    clones = daemon.clone("inner", 2, params={"k": "v"})
    for index, name in enumerate(clones):
        assert wait_until(lambda: daemon.exec(name, "cat", "/tmp/role").out, "the clone's role") == f"clone-{index}-v\n".encode()


# Quiesce.

@pytest.fixture
def disk_vm(daemon, tmp_path):
    disk = tmp_path / "data.raw"
    disk.touch()
    os.truncate(disk, 64 << 20)
    daemon.agent_vm("m", disks=[{"path": str(disk)}])
    daemon.guest("m", "mke2fs -q /dev/vda >/dev/null 2>&1; mkdir -p /mnt; mount /dev/vda /mnt; echo a > /mnt/f")
    return daemon


def writable(daemon, name):
    assert daemon.exec(name, "sh", "-c", "echo b > /mnt/g && sync && cat /mnt/f", timeout_ms=20000).out == b"a\n"


def test_quiesce(disk_vm):
    """Would catch: a file system that stays frozen, in the parent or in a clone."""
    daemon = disk_vm
    result = daemon.freeze("m", "t")
    assert result["quiesce"]["done"], result["quiesce"]
    writable(daemon, "m")
    for name in daemon.clone("t", 2):
        writable(daemon, name)
    assert not daemon.freeze("m", "t2", quiesce=False)["quiesce"]["done"]
    writable(daemon, "m")


def test_quiesce_undone_when_the_freeze_fails(disk_vm):
    """Would catch: a parent whose file systems stay frozen after a failure or the daemon's death."""
    daemon = disk_vm
    for point in ("freeze-quiesced", "freeze-held", "freeze-stopped", "freeze-state-saved", "freeze-window-over"):
        os.environ["COPPICE_FAULT"] = point
        try:
            daemon.restart()
            daemon.wait_agent("m")
            with pytest.raises((ConnectionError, OSError, ApiError, Exception)):
                daemon.freeze("m", "t")
            assert daemon.process.wait(60) == -signal.SIGKILL
        finally:
            del os.environ["COPPICE_FAULT"]
        daemon.start()
        daemon.wait_agent("m")
        wait_until(lambda: daemon.exec("m", "sh", "-c", "echo b > /mnt/g && sync", timeout_ms=5000).status == 0,
                   "the file system to be writable")
    assert daemon.templates() == {}


# A Debian system.

def test_desktops_are_machines_of_their_own(daemon):
    """Would catch: what only a whole system has and a clone repeats: ssh's keys, D-Bus's id, Python's random numbers,
    a kernel that was not told that it was forked."""
    image = IMAGES / "desktop"
    manifest = json.loads((image / "image.json").read_text())
    daemon.api("POST", "/v1/vms", {"name": "desktop", "disks": [{"path": str(image / manifest["disk"])}],
                                   "memory_bytes": manifest["memory_bytes"], "display": "vga", "network": "user", "accel": "tcg"})
    with daemon.console("desktop") as console:
        console.ws.settimeout(400)
        console.until(b"coppice: desktop ready")
    daemon.wait_agent("desktop")
    assert daemon.freeze("desktop", "desk")["quiesce"]["done"], "its root file system is on a disk"
    answer = daemon.api("POST", "/v1/templates/desk/clone",
                        {"count": 3, "ssh_host_keys": True, "ready_timeout_ms": 240000})
    names = [vm["name"] for vm in answer["vms"]]
    for vm in answer["vms"]:
        assert vm["agent"]["state"] == "ready" and all(s["ok"] for s in vm["agent"]["steps"]), vm["agent"]
    seen = every(daemon, names, "sha256sum < /etc/ssh/ssh_host_ed25519_key.pub; hostname; cat /etc/machine-id; "
                                "cat $(ls -d /sys/class/net/e*)/address; python3 -c 'import random; print(random.random())'")
    rows = [out.split("\n") for out in seen.values()]
    for column in range(5):
        assert len({row[column] for row in rows}) == len(names), [row[column] for row in rows]
    seen_net = lambda name: [s for s in daemon.agent(name)["steps"] if s["name"] == "network"]
    for name in names:
        assert "virtual machine fork" in daemon.guest(name, "dmesg"), "vmgenid"
        wait_until(lambda: " 10.0.2." in daemon.guest(name, "ip -4 addr"), lambda: f"an address: {seen_net(name)}")
        assert daemon.exec(name, "touch", "/root/x", timeout_ms=20000).status == 0
    assert "virtual machine fork" not in daemon.guest("desktop", "dmesg")
