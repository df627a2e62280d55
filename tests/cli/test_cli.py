# SPDX-License-Identifier: MIT
"""Help, manual page, completion, wrong usage: no daemon is needed, and none must be started."""
import pathlib
import re
import subprocess

import pytest

MAN = (pathlib.Path(__file__).resolve().parents[2] / "docs/man/coppice.1").read_text()


def man_sections():
    """Command -> set of long options, from the manual's subsections."""
    body = MAN.split(".SH COMMANDS")[1].split(".SH EXIT STATUS")[0]
    sections = {}
    for part in body.split(".SS ")[1:]:
        heading, _, text = part.partition("\n")
        name = re.match(r"(?:template|image) \w+|[\w-]+", heading.strip('"').replace("\\-", "-")).group()
        tags = re.findall(r"\.TP\n(.*)", text)
        sections[name] = set(re.findall(r"--([a-z-]+)", "\n".join(tags).replace("\\-", "-")))
    return sections


def table(coppice):
    return {row["name"]: {o["name"] for o in row["options"]} for row in coppice.json("help")["commands"]}


# Catches: a command or option that only the manual, or only the program, knows.
def test_manual_names_what_the_program_has(coppice):
    assert man_sections() == table(coppice)


# Catches: a common option that is missing on one side.
def test_manual_names_common_options(coppice):
    common = {o["name"] for o in coppice.json("help")["options"]}
    section = MAN.split(".SH COMMON OPTIONS")[1].split(".SH")[0].replace("\\-", "-")
    assert set(re.findall(r"--([a-z-]+)", "\n".join(re.findall(r"\.TP\n(.*)", section)))) == common | {"version"}


# Catches: help that forgets an option or fails, or that needs a daemon.
def test_help_of_every_command(coppice, folder):
    for name, options in table(coppice).items():
        words = name.split()
        text = coppice(*words, "--help").out
        shown = set(re.findall(r"^ +(?:-\w, )? *--([a-z-]+)", text, re.M))
        assert shown == options | {"dir", "json", "help"}
        assert text.startswith(f"Usage: coppice {name}")
        assert coppice("help", *words).out == text == coppice("--help", *words).out
        assert name in coppice("--help").out
    assert "template rm" in coppice("template", "--help").out
    assert list(folder.iterdir()) == []


# Catches: a mistake that is not named, that exits with 1, or that starts a daemon before it is seen.
@pytest.mark.parametrize("args, says, help_of", [
    ([], "Usage:", ""),
    (["--foo"], "unknown option --foo", ""),
    (["--dir"], "missing argument for --dir", ""),
    (["clon"], "unknown command 'clon'; did you mean 'clone'?", ""),
    (["xyzzy"], "unknown command 'xyzzy'\n", ""),
    (["template"], "template: needs one more word", "template "),
    (["template", "foo"], "unknown command 'template foo'", "template "),
    (["ps", "--foo"], "ps: unknown option --foo", "ps "),
    (["ps", "desk"], "unexpected argument 'desk'", "ps "),
    (["clone"], "too few arguments, needs TEMPLATE", "clone "),
    (["clone", "base", "-n"], "missing argument", "clone "),
    (["clone", "base", "-n", "0"], "--count: '0' is not a number from 1 to 1024", "clone "),
    (["clone", "base", "-n", "many"], "'many' is not a number", "clone "),
    (["clone", "base", "-n", "3", "--name", "a"], "1 times --name does not fit --count 3", "clone "),
    (["clone", "../base"], "'../base' is not a name", "clone "),
    (["freeze", "desk"], "needs VM TEMPLATE", "freeze "),
    (["freeze", "desk", "Base"], "'Base' is not a name for a template", "freeze "),
    (["fork", "desk", "--template", "-x"], "'-x' is not a name", "fork "),
    (["run"], "nothing to boot", "run "),
    (["run", "x", "--memory", "12Q"], "--memory: '12Q' is not a size", "run "),
    (["run", "x", "--cpus", "0"], "--cpus: '0' is not a number", "run "),
    (["run", "x", "--accel", "xen"], "--accel can't be 'xen'; it is one of auto, tcg, kvm", "run "),
    (["stop"], "needs VM... or --all", "stop "),
    (["stop", "a", "--all"], "names and --all exclude each other", "stop "),
    (["stop", "a", "-t", "soon"], "--timeout: 'soon'", "stop "),
    (["screenshot"], "needs VM or --all DIR", "screenshot "),
    (["screenshot", "a", "-", "--json"], "'-' does not go with --json", "screenshot "),
    (["console", "a", "--timeout", "3"], "--timeout goes with --until", "console "),
    (["console", "a", "--escape", "ab"], "'ab' is no key", "console "),
    (["vnc", "a", "--proxy", "localhost:x"], "'x' is not a number", "vnc "),
    (["vnc", "a", "--proxy", "localhost:1"], "'localhost' is no IP address", "vnc "),
    (["image", "build", "windows"], "there is no image 'windows'", "image build "),
    (["completion", "zsh"], "there is none for 'zsh'", "completion "),
])
def test_wrong_usage(coppice, folder, args, says, help_of):
    result = coppice(*args, status=2)
    assert says in result.err and result.out == ""
    if says != "Usage:":
        assert result.err.startswith("coppice: ") and result.err.endswith(f"try 'coppice {help_of}--help'\n")
    assert list(folder.iterdir()) == []


# Catches: a version that needs a daemon.
def test_version_alone(coppice):
    assert re.fullmatch(r"coppice \d+\.\d+\.\d+\n", coppice("--version").out)


def complete(coppice, folder, *words):
    script = folder / "completion"
    script.write_text(coppice("completion", "bash").out)
    line = " ".join(f"'{w}'" for w in ("coppice", *words))
    code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _coppice; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return set(subprocess.run(["/bin/bash", "-c", code], check=True, capture_output=True, text=True).stdout.split())


# Catches: a completion script that bash does not take, or that offers the wrong words.
def test_bash_completion(coppice, folder):
    assert {"run", "template", "image", "ps"} <= complete(coppice, folder, "")
    assert complete(coppice, folder, "template", "") == {"rm", "inspect"}
    assert complete(coppice, folder, "--dir", "x", "clo") == {"clone"}
    assert complete(coppice, folder, "clone", "base", "--pau") == {"--paused"}
    assert complete(coppice, folder, "template", "inspect", "--v") == {"--verify"}
    assert complete(coppice, folder, "template", "rm", "--v") == set()


# Catches: output that is lost without a word when the disk is full.
def test_full_output(coppice):
    with open("/dev/full", "w") as full:
        result = subprocess.run([coppice.bin, "--help"], stdout=full, stderr=subprocess.PIPE, env=coppice.env)
    assert result.returncode == 1 and b"cannot write to standard output" in result.stderr
