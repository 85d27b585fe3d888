#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Gets the tools that Tagstash needs: the Rust target, QEMU and the device-tree compiler.

What the machine has already and is good enough is used as it is. What is missing is fetched with rustup or with a
private apt configuration (own lists, caches and state under build/, the mirror taken from the system's own sources) and
unpacked under build/tools. Nothing outside build/ changes, apart from the target that rustup adds to its toolchain,
and no root rights are needed. Running it again costs a fraction of a second.

With `--only linux`, and then only, it gets the guest that `make linux` boots: Debian's own arm64 kernel and busybox, under
build/linux. With `--only kernels`, and then only, it gets the kernels of `make linux-test`, with their modules, under
build/linux/kernels (`--kernel NAME` gets one of them alone). With `--only herd`, and then only, it gets herd7 for `make litmus`; with
`--only qemu-newest`, and then only, a second, newer QEMU for `make linux-compare`; with `--only cross`, and then only, a C compiler for arm64
Linux: build/tools/bin/aarch64-linux-gnu-gcc and the binutils beside it, unless the system has them; with `--only selftests`, and then
only, the kernel's own selftests of memory tagging for `make mte-selftest`; with `--only headers`, and then only, trees to build modules for
Debian's kernels, and with `--only cleancache-kernel` or `cleancache-debug`, and then only, a Linux 5.10 with cleancache, which is built here
unless CLEANCACHE_KERNEL names a directory that has one: all under build/linux/trees, for `make driver`; with `--only e2fsprogs`, and then
only, mke2fs for the disks of the driver's guest, unless the system has it. Exit status: 0 if all is there, 3 if one of these could not be
downloaded, 1 for any other trouble.

Results: build/tools.json (read by qemu/run.py, qemu/initramfs.py and tests/suite.py); build/cargo.env and build/cargo.flags (read by the
Makefile), which are empty where the bare-metal target is installed.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import gzip
import io
import json
import lzma
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, Iterator, Optional

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TAGSTASH_BUILD", ROOT / "build")).resolve()
TOOLS = BUILD / "tools"
TOOLS_JSON = BUILD / "tools.json"
CARGO_ENV = BUILD / "cargo.env"
CARGO_FLAGS = BUILD / "cargo.flags"

TARGET = "aarch64-unknown-none-softfloat"
QEMU_BINARY = "qemu-system-aarch64"
QEMU_MINIMUM = (8, 1)
QEMU_WHY = (
    "QEMU before 8.1 is not usable here: 7.2, for one, loses the page offset when it stores MTE tags, so that all "
    "tags of a page land in its first byte"
)
QEMU_BY_HAND = (
    f"install QEMU 8.1 or newer by hand (Debian 12 has it in its backports suite, package qemu-system-arm) so that "
    f"{QEMU_BINARY} is found in PATH, or name the program in the environment variable TAGSTASH_QEMU"
)
RUSTUP_SECONDS = 120
APT_SECONDS = 240


class SetupError(Exception):
    """A reason why set-up cannot go on, with what the reader can do about it."""

    status = 1


class NotDownloaded(SetupError):
    """Nothing is wrong here, but what has to be downloaded cannot be had."""

    status = 3


def say(tool: str, text: str) -> None:
    """Prints one line of progress."""
    print(f"{tool + ':':6} {text}", flush=True)


def run(command: list[str], seconds: float, env: Optional[dict[str, str]] = None,
        stdin: str = "", cwd: Optional[Path] = None) -> tuple[int, str]:
    """Runs a command and returns its exit status and all it printed; a time limit counts as status 124."""
    full_env = dict(os.environ, LC_ALL="C", **(env or {}))
    try:
        done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=seconds, env=full_env, cwd=cwd, check=False)
    except FileNotFoundError:
        return 127, f"{command[0]}: not found"
    except PermissionError:
        return 126, f"{command[0]}: may not be executed"
    except subprocess.TimeoutExpired as late:
        text = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else (late.stdout or "")
        return 124, text + f"\n{command[0]}: stopped after {seconds:.0f} s"
    return done.returncode, done.stdout


def indent(text: str, lines: int = 12) -> str:
    """Returns the last lines of a tool's output, indented for quoting in a message."""
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])


# --------------------------------------------------------------------------------------------------------------------
# The private apt configuration


@dataclass
class Source:
    """One archive entry of the system's apt configuration."""

    uri: str
    suite: str
    components: list[str]
    options: dict[str, str] = field(default_factory=dict)

    def stanza(self) -> str:
        """Writes the entry in apt's deb822 format."""
        lines = ["Types: deb", f"URIs: {self.uri}", f"Suites: {self.suite}"]
        if self.components:
            lines.append(f"Components: {' '.join(self.components)}")
        lines += [f"{name}: {value}" for name, value in self.options.items()]
        return "\n".join(lines) + "\n"


# Options worth keeping: those that say whom to trust. Both spellings are apt's own.
KEPT_OPTIONS = {
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "allow-insecure": "Allow-Insecure",
}


def parse_deb822(text: str) -> list[Source]:
    """Reads the entries of a `.sources` file."""
    found: list[Source] = []
    for block in re.split(r"\n[ \t]*\n", "\n".join(line for line in text.splitlines() if not line.startswith("#"))):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1] in (" ", "\t") and name:
                # A continuation line; kept as it is, because a key written in place is many lines long.
                fields[name] += "\n" + line.rstrip()
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off", "disable"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        options = {KEPT_OPTIONS[key]: value for key, value in fields.items() if key in KEPT_OPTIONS}
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                found.append(Source(uri, suite, fields.get("components", "").split(), options))
    return found


def parse_one_line(text: str) -> list[Source]:
    """Reads the entries of a `.list` file."""
    found: list[Source] = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if not match:
            continue
        options: dict[str, str] = {}
        for option in (match[1] or "").split():
            key, _, value = option.partition("=")
            if key.lower() in KEPT_OPTIONS:
                options[KEPT_OPTIONS[key.lower()]] = value.replace(",", " ")
        found.append(Source(match[2], match[3], match[4].split(), options))
    return found


def os_release() -> dict[str, str]:
    """Reads the distribution's name and code name."""
    values: dict[str, str] = {}
    for name in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(name).read_text(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            key, separator, value = line.partition("=")
            if separator:
                values[key.strip()] = value.strip().strip("\"'")
        break
    return values


def system_sources() -> list[Source]:
    """Reads the system's apt sources, in both formats."""
    directory = Path("/etc/apt")
    files = [directory / "sources.list"]
    parts = directory / "sources.list.d"
    if parts.is_dir():
        files += sorted(part for part in parts.iterdir() if part.suffix in (".list", ".sources"))
    found: list[Source] = []
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        found += parse_deb822(text) if file.suffix == ".sources" else parse_one_line(text)
    return [source for source in found if not source.uri.startswith("cdrom:")]


def archive_sources(system: Iterable[Source], codename: str) -> list[Source]:
    """Picks the distribution's own archive out of the system's sources, main archive first.

    Third-party archives are left out: nothing is needed from them, and one that does not answer would stop us.
    """
    entries = list(system)
    names = [codename] if codename else []
    if not any(entry.suite == codename for entry in entries):
        # The sources may follow a moving name instead of the code name.
        names += ["stable", "testing", "unstable", "sid", "oldstable"]
    picked = [entry for entry in entries
              if any(entry.suite == name or entry.suite.startswith(name + "-") for name in names)]
    return sorted(picked, key=lambda entry: entry.suite not in names)


def acquire_options() -> str:
    """Copies the network settings (proxies, certificates) of the system's apt configuration."""
    status, text = run(["apt-config", "dump", "--no-empty", "--format", "%f \"%v\";%n"], 20)
    if status != 0:
        return ""
    wanted = re.compile(r"Acquire::((https?|ftp|tor)\b|Check-Valid-Until|Max-ValidTime|ForceIPv|By-Hash|Changelogs)")
    return "\n".join(line for line in text.splitlines() if wanted.match(line)) + "\n"


class Apt:
    """A private apt: resolves against the system's installed packages, keeps everything else under build/."""

    def __init__(self, name: str, extra_suites: list[str], architecture: str = "", absent: str = "") -> None:
        """Prepares the private configuration for the distribution's suites and the extra ones that exist.

        With another `architecture` than this system's, nothing counts as installed. Packages whose names match `absent` do
        not either, so that all of them come into one tree.
        """
        for program in ("apt-get", "apt-cache", "dpkg-deb"):
            if not shutil.which(program):
                raise SetupError(f"{program} is not there, so nothing can be fetched on this system")
        release = os_release()
        self.codename = release.get("VERSION_CODENAME", "")
        self.sources = archive_sources(system_sources(), self.codename)
        if not self.sources:
            raise SetupError(f"no archive of {release.get('PRETTY_NAME', 'this system')} (code name "
                             f"'{self.codename}') is listed under /etc/apt, so nothing can be fetched")
        base = self.sources[0]
        listed = {(source.uri, source.suite) for source in self.sources}
        for suite in extra_suites:
            # Security's suites are in an archive of their own.
            security = suite.endswith("-security")
            of = next((source for source in self.sources if source.suite.endswith("-security")), None) if security else base
            if of is not None and (of.uri, suite) not in listed:
                self.sources.append(Source(of.uri, suite, ["main"], of.options))
        self.architecture = architecture
        self.absent = absent
        self.directory = BUILD / "apt" / name
        self.config = self.directory / "apt.conf"
        self._write()

    def _write(self) -> None:
        where = self.directory
        for part in ("lists/partial", "state", "cache/archives/partial", "log", "empty"):
            (where / part).mkdir(parents=True, exist_ok=True)
        (where / "private.sources").write_text("\n".join(source.stanza() for source in self.sources))
        status, foreign = "/var/lib/dpkg/status", ""
        if self.architecture:
            (where / "status").write_text("")
            status = f"{where}/status"
            foreign = f'APT::Architecture "{self.architecture}";\nAPT::Architectures {{ "{self.architecture}"; }};\n'
        elif self.absent:
            installed = Path(status).read_text(errors="replace").split("\n\n")
            status = f"{where}/status"
            Path(status).write_text("\n\n".join(stanza for stanza in installed
                                                if not re.match(rf"Package: \S*({self.absent})", stanza)))
        # Dir::Etc::parts and ::main are emptied so that the system's hooks do not run for us.
        self.config.write_text(acquire_options() + foreign + f"""\
Dir::Etc::main "/dev/null";
Dir::Etc::parts "{where}/empty";
Dir::Etc::sourcelist "{where}/private.sources";
Dir::Etc::sourceparts "{where}/empty";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{where}/empty";
Dir::State "{where}/state";
Dir::State::lists "{where}/lists";
Dir::State::status "{status}";
Dir::Cache "{where}/cache";
Dir::Cache::archives "{where}/cache/archives";
Dir::Log "{where}/log";
Debug::NoLocking "true";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
APT::Get::AllowUnauthenticated "false";
""")

    def command(self, *arguments: str, seconds: float = APT_SECONDS, cwd: Optional[Path] = None) -> tuple[int, str]:
        """Runs one of apt's programs with the private configuration."""
        return run(list(arguments), seconds, {"APT_CONFIG": str(self.config), "DEBIAN_FRONTEND": "noninteractive"},
                   cwd=cwd)

    def update(self, tool: str) -> None:
        """Fetches the package lists, unless that was done within the hour."""
        stamp = self.directory / "updated"
        wanted = (self.directory / "private.sources").read_text()
        if stamp.exists() and time.time() - stamp.stat().st_mtime < 3600 and stamp.read_text() == wanted:
            return
        say(tool, "fetching package lists (" + ", ".join(dict.fromkeys(s.suite for s in self.sources)) + ")")
        status, text = self.command("apt-get", "-q", "update")
        errors = [line for line in text.splitlines() if re.match(r"(E|Err|W)[: ]", line)]
        if status == 0 and not any(line.startswith("E") for line in errors):
            stamp.write_text(wanted)
        else:
            # Not fatal yet: one suite may be missing while the one that matters is there.
            say(tool, "not every package list could be fetched:")
            print(indent("\n".join(errors) or text, 6), flush=True)

    def versions(self, package: str) -> list[tuple[str, str]]:
        """Lists the versions of a package as (version, suite), best first."""
        _, text = self.command("apt-cache", "madison", package, seconds=60)
        found: list[tuple[str, str]] = []
        for line in text.splitlines():
            parts = [part.strip() for part in line.split("|")]
            if len(parts) == 3 and parts[0] == package and parts[2].endswith("Packages"):
                found.append((parts[1], parts[2].split()[1].split("/")[0]))
        return found

    def fetch_tree(self, tool: str, packages: list[str], suite: str, destination: Path) -> list[str]:
        """Downloads packages with everything they need that is not installed, and unpacks all of it."""
        archives = self.directory / "cache" / "archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        arguments = ["install", "--yes", "-t", suite, *packages]
        status, plan = self.command("apt-get", "-q", *arguments, "--print-uris", seconds=90)
        if status != 0:
            raise SetupError(f"apt finds no way to install {' '.join(packages)} from {suite}:\n{indent(plan)}")
        names = re.findall(r"^'\S+' (\S+)_\S+\.deb ", plan, re.M)
        need = re.search(r"Need to get ([^\n]+?) of archives", plan)
        say(tool, f"downloading {len(names)} packages from {suite}" + (f" ({need[1]})" if need else ""))
        started = time.monotonic()
        status, text = self.command("apt-get", "-q", *arguments, "--download-only")
        debs = sorted(archives.glob("*.deb"))
        if status != 0 or not debs:
            raise SetupError(f"the download of {' '.join(packages)} failed:\n{indent(text)}")
        say(tool, f"downloaded in {time.monotonic() - started:.0f} s, unpacking")
        self.unpack(debs, destination)
        for deb in debs:
            deb.unlink()
        return names

    def fetch_one(self, tool: str, package: str, version: str, destination: Path) -> None:
        """Downloads and unpacks one package alone, in one version."""
        directory = self.directory / "single"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        say(tool, f"downloading {package} {version}")
        status, text = self.command("apt-get", "-q", "download", f"{package}={version}", cwd=directory)
        debs = sorted(directory.glob("*.deb"))
        if status != 0 or not debs:
            raise SetupError(f"the download of {package} {version} failed:\n{indent(text)}")
        self.unpack(debs, destination)
        shutil.rmtree(directory)

    def facts(self, package: str, version: str) -> dict[str, str]:
        """Reads what the archive says of a package in one version; empty if it says nothing."""
        status, text = self.command("apt-cache", "show", f"{package}={version}", seconds=60)
        stanza = text.split("\n\n")[0] if status == 0 else ""
        return {name: value for name, value in re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.M)}

    def download(self, tool: str, package: str, version: str, seconds: float = APT_SECONDS) -> Path:
        """Downloads one package in one version; returns the file, which lies in a directory of its own."""
        directory = self.directory / "single"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        size = self.facts(package, version).get("Size", "")
        say(tool, f"downloading {package} {version}" + (f" ({int(size) / 1e6:.1f} MB)" if size.isdigit() else ""))
        started = time.monotonic()
        status, text = self.command("apt-get", "-q", "download", f"{package}={version}", seconds=seconds, cwd=directory)
        debs = sorted(directory.glob("*.deb"))
        if status != 0 or not debs:
            raise NotDownloaded(f"the download of {package} {version} failed:\n{indent(text)}")
        say(tool, f"downloaded in {time.monotonic() - started:.0f} s")
        return debs[0]

    @staticmethod
    def unpack(debs: list[Path], destination: Path) -> None:
        """Unpacks packages into a tree that appears only when it is complete."""
        partial = destination.with_name(destination.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for deb in debs:
            status, text = run(["dpkg-deb", "-x", str(deb), str(partial)], 120)
            if status != 0:
                raise SetupError(f"{deb.name} cannot be unpacked:\n{indent(text)}")
        shutil.rmtree(destination, ignore_errors=True)
        partial.rename(destination)


# --------------------------------------------------------------------------------------------------------------------
# Programs, from the system or from an unpacked tree


@dataclass
class Program:
    """How to start a tool: the command's first words and what its environment needs."""

    argv: list[str]
    env: dict[str, str]
    version: str
    origin: str

    def record(self) -> dict[str, object]:
        """Returns what tools.json says of the tool."""
        return {"argv": self.argv, "env": self.env, "version": self.version, "origin": self.origin,
                "stamp": stamp(Path(self.argv[0]))}


def stamp(file: Path) -> str:
    """Identifies a file's present contents cheaply."""
    try:
        status = file.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}"


def library_directories(tree: Path) -> list[str]:
    """Lists the directories of an unpacked tree that hold shared libraries."""
    found: dict[str, None] = {}
    for top in ("usr/lib", "lib"):
        # One directory per architecture, and some packages keep their private libraries one level further down.
        for pattern in ("*-linux-*/lib*.so*", "*-linux-*/*/lib*.so*"):
            for file in sorted((tree / top).glob(pattern)):
                found[str(file.parent)] = None
    return list(found)


def tree_command(tree: Path, binary: Path, data: Optional[Path]) -> tuple[list[str], dict[str, str]]:
    """Works out how to run a program of an unpacked tree."""
    libraries = ":".join(library_directories(tree))
    loaders = [*tree.glob("lib64/ld-linux-*.so.*"), *tree.glob("lib/ld-linux-*.so.*"),
               *tree.glob("usr/lib64/ld-linux-*.so.*"), *tree.glob("lib/*/ld-linux-*.so.*"),
               *tree.glob("usr/lib/*/ld-linux-*.so.*")]
    env: dict[str, str] = {}
    if loaders:
        # The tree brings a C library of its own, and that goes with its own loader only.
        argv = [str(loaders[0]), "--library-path", libraries, str(binary)]
    else:
        argv = [str(binary)]
        if libraries:
            env["LD_LIBRARY_PATH"] = libraries
    modules = [module for module in tree.glob("usr/lib/*-linux-*/qemu") if module.is_dir()]
    if data is not None:
        # Boot ROMs of network cards are in a directory of their own.
        for place in (data, *tree.glob("usr/lib/ipxe/qemu")):
            argv += ["-L", str(place)]
        if modules:
            env["QEMU_MODULE_DIR"] = str(modules[0])
    return argv, env


def write_wrapper(name: str, program: Program) -> Path:
    """Writes a small script under build/tools/bin that starts the tool by hand."""
    directory = TOOLS / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / name
    quote = "'\\''"
    lines = ["#!/bin/sh", "# Starts the tool that set-up chose. Written by qemu/setup.py."]
    lines += [f"export {key}='{value.replace(chr(39), quote)}'" for key, value in program.env.items()]
    lines.append("exec " + " ".join(f"'{word.replace(chr(39), quote)}'" for word in program.argv) + ' "$@"')
    write_if_changed(script, "\n".join(lines) + "\n", 0o755)
    return script


def program_version(argv: list[str], env: dict[str, str], pattern: str) -> tuple[Optional[str], str]:
    """Asks a program for its version; returns it, or None with what the program said."""
    status, text = run([*argv, "--version"], 30, env)
    match = re.search(pattern, text)
    return (match[1] if match and status == 0 else None), text


QEMU_VERSION = r"version (\d+\.\d+(?:\.\d+)?)"
DTC_VERSION = r"DTC v?(\d+\.\d+(?:\.\d+)?)"


def numbers(version: str) -> tuple[int, ...]:
    """Turns a version such as `10.0.2` into numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def check_qemu_starts(argv: list[str], env: dict[str, str]) -> Optional[str]:
    """Starts the machine, stopped, and ends it again; returns what went wrong, if anything."""
    status, text = run([*argv, "-machine", "virt,virtualization=on,mte=on,gic-version=3", "-cpu", "max", "-S", "-display",
                        "none", "-nodefaults", "-monitor", "stdio"], 30, env, stdin="quit\n")
    return None if status == 0 else indent(text)


def recorded(name: str, old: dict[str, dict], system_only: bool = False) -> Optional[Program]:
    """Returns the tool of the last set-up if it is still there unchanged."""
    entry = old.get(name)
    if not isinstance(entry, dict) or not entry.get("argv"):
        return None
    if entry.get("stamp") != stamp(Path(entry["argv"][0])) or (system_only and entry.get("origin") != "system"):
        return None
    return Program(entry["argv"], entry["env"], entry["version"], entry["origin"])


def find_qemu(old: dict[str, dict], ignore_system: bool) -> Program:
    """Finds QEMU, or fetches it."""
    too_old = ""
    named = os.environ.get("TAGSTASH_QEMU", "")
    candidate = named or ("" if ignore_system else shutil.which(QEMU_BINARY) or "")
    if candidate:
        known = recorded("qemu", old)
        if known and known.argv == [candidate]:
            say("qemu", f"{known.version} ({candidate})")
            return known
        version, text = program_version([candidate], {}, QEMU_VERSION)
        if version is None:
            too_old = f"{candidate} does not tell its version:\n{indent(text, 4)}"
        elif numbers(version) < QEMU_MINIMUM:
            too_old = f"{candidate} is QEMU {version}, which is too old. {QEMU_WHY}"
        else:
            trouble = check_qemu_starts([candidate], {})
            if trouble is None:
                say("qemu", f"{version} ({candidate})")
                return Program([candidate], {}, version, "system")
            too_old = f"{candidate} (QEMU {version}) does not start the virt machine:\n{trouble}"
        if named:
            raise SetupError(f"{too_old}\nTAGSTASH_QEMU names it; name another one, or unset it")
        say("qemu", too_old)

    known = recorded("qemu", old)
    if known and known.origin == "fetched" and numbers(known.version) >= QEMU_MINIMUM:
        say("qemu", f"{known.version} (under {relative(TOOLS)})")
        return known

    try:
        tree = TOOLS / "qemu"
        program = qemu_of_tree(tree)
        if program is None:
            fetch_qemu(tree)
            program = qemu_of_tree(tree)
        if program is None:
            raise SetupError(f"the packages fetched hold no {QEMU_BINARY}")
        if numbers(program.version) < QEMU_MINIMUM:
            raise SetupError(f"the QEMU fetched is {program.version}. {QEMU_WHY}")
        trouble = check_qemu_starts(program.argv, program.env)
        if trouble is not None:
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError(f"the QEMU fetched ({program.version}) does not start the virt machine:\n{trouble}")
    except SetupError as error:
        reason = f"QEMU {QEMU_MINIMUM[0]}.{QEMU_MINIMUM[1]} or newer could not be got: {error}"
        if too_old:
            reason += f"\nFound on this system: {too_old}"
        raise SetupError(f"{reason}\nWhat to do: {QEMU_BY_HAND}") from None
    say("qemu", f"{program.version} (fetched to {relative(tree)})")
    return program


QEMU_NEWEST_SUITES = ["trixie", "trixie-backports"]


def find_qemu_newest(old: dict[str, dict]) -> Program:
    """Finds the newest QEMU that can be had, whose `max` has more features than the QEMU that all else runs on; or fetches it.

    It comes with a C library of its own, because it is built for another Debian than this system may be.
    """
    known = recorded("qemu-newest", old)
    if known:
        say("qemu", f"newest: {known.version} ({'system' if known.origin == 'system' else 'under ' + relative(TOOLS)})")
        return known
    tree = TOOLS / "qemu-newest"
    try:
        program = qemu_of_tree(tree)
        if program is None:
            status, text = run(["dpkg", "--print-architecture"], 20)
            if status != 0:
                raise SetupError(f"dpkg does not tell this system's architecture:\n{indent(text)}")
            apt = Apt("qemu-newest", QEMU_NEWEST_SUITES, text.strip())
            apt.update("qemu")
            offered = apt.versions("qemu-system-arm")
            if not offered:
                raise NotDownloaded("no archive that could be reached offers qemu-system-arm")
            apt.fetch_tree("qemu", ["qemu-system-arm"], offered[0][1], tree)
            program = qemu_of_tree(tree)
        if program is None:
            raise SetupError(f"the packages fetched hold no {QEMU_BINARY} that runs")
        trouble = check_qemu_starts(program.argv, program.env)
        if trouble is not None:
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError(f"the QEMU fetched ({program.version}) does not start the virt machine:\n{trouble}")
    except SetupError as error:
        raise NotDownloaded(f"the newest QEMU could not be got: {error}\nWhat to do: look whether this machine reaches the archives "
                            f"listed under /etc/apt; nothing but `make linux-compare` and the suites that name it need it") from None
    chosen = recorded("qemu", old)
    if chosen and numbers(chosen.version) >= numbers(program.version):
        say("qemu", f"newest: {chosen.version}, the chosen one")
        return chosen
    say("qemu", f"newest: {program.version} (fetched to {relative(tree)})")
    return program


def relative(path: Path) -> str:
    """Shortens a path for messages."""
    try:
        return str(path.relative_to(ROOT))
    except ValueError:
        return str(path)


def qemu_of_tree(tree: Path) -> Optional[Program]:
    """Returns the QEMU of an unpacked tree, if it runs."""
    binary = tree / "usr" / "bin" / QEMU_BINARY
    if not binary.is_file():
        return None
    argv, env = tree_command(tree, binary, tree / "usr" / "share" / "qemu")
    version, text = program_version(argv, env, QEMU_VERSION)
    if version is None:
        say("qemu", f"the one under {relative(tree)} does not run and is fetched again:")
        print(indent(text, 4), flush=True)
        shutil.rmtree(tree, ignore_errors=True)
        return None
    return Program(argv, env, version, "fetched")


def debian_backports() -> list[str]:
    """Names the backports suite of this system, if its distribution has one."""
    release = os_release()
    name = release.get("VERSION_CODENAME", "")
    return [f"{name}-backports"] if release.get("ID") == "debian" and name else []


def fetch_qemu(tree: Path) -> None:
    """Downloads a new enough QEMU and unpacks it."""
    apt = Apt("base", debian_backports())
    apt.update("qemu")
    package = "qemu-system-arm"
    versions = apt.versions(package)
    if not versions:
        raise SetupError(f"no archive that could be reached offers {package}")

    def upstream(version: str) -> tuple[int, ...]:
        return numbers(version.split(":")[-1].split("+")[0].split("-")[0])

    good = [(version, suite) for version, suite in versions if upstream(version) >= QEMU_MINIMUM]
    if not good:
        offered = ", ".join(f"{version} ({suite})" for version, suite in versions)
        raise SetupError(f"the archives offer only {offered}. {QEMU_WHY}")
    # The boot ROM of the default network card is only recommended, but QEMU does not start by hand without it.
    packages = [package, "ipxe-qemu"]
    apt.fetch_tree("qemu", packages, good[0][1], tree)


def find_dtc(old: dict[str, dict], ignore_system: bool) -> Program:
    """Finds the device-tree compiler, or fetches it."""
    candidate = None if ignore_system else shutil.which("dtc")
    if candidate:
        known = recorded("dtc", old)
        if known and known.argv == [candidate]:
            say("dtc", f"{known.version} ({candidate})")
            return known
        version, _ = program_version([candidate], {}, DTC_VERSION)
        if version:
            say("dtc", f"{version} ({candidate})")
            return Program([candidate], {}, version, "system")
        say("dtc", f"{candidate} does not tell its version and is not used")
    known = recorded("dtc", old)
    if known and known.origin == "fetched":
        say("dtc", f"{known.version} (under {relative(TOOLS)})")
        return known
    tree = TOOLS / "dtc"
    binary = tree / "usr" / "bin" / "dtc"
    try:
        if not binary.is_file():
            apt = Apt("base", debian_backports())
            apt.update("dtc")
            apt.fetch_tree("dtc", ["device-tree-compiler"], apt.sources[0].suite, tree)
        argv, env = tree_command(tree, binary, None)
        version, text = program_version(argv, env, DTC_VERSION)
        if version is None:
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError(f"the one fetched does not run:\n{indent(text, 4)}")
    except SetupError as error:
        raise SetupError(f"dtc, the device-tree compiler, could not be got: {error}\n"
                         f"What to do: install it by hand (package device-tree-compiler)") from None
    say("dtc", f"{version} (fetched to {relative(tree)})")
    return Program(argv, env, version, "fetched")


def find_uboot() -> dict[str, object]:
    """Fetches U-Boot for the machine, and mkimage; returns what tools.json says of them."""
    tree = TOOLS / "u-boot"
    bios, binary = tree / "usr/lib/u-boot/qemu_arm64/u-boot.bin", tree / "usr/bin/mkimage"
    try:
        if not (bios.is_file() and binary.is_file()):
            apt = Apt("base", debian_backports())
            apt.update("u-boot")
            apt.fetch_tree("u-boot", ["u-boot-qemu", "u-boot-tools"], apt.sources[0].suite, tree)
        argv, env = tree_command(tree, binary, None)
        status, text = run([*argv, "-V"], 30, env)
        match = re.search(r"version (\S+)", text)
        if status != 0 or not match or not bios.is_file():
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError(f"what was fetched holds no U-Boot for qemu_arm64, or its mkimage does not run:\n"
                             f"{indent(text, 4)}")
    except SetupError as error:
        raise SetupError(f"U-Boot could not be got: {error}\nWhat to do: nothing but `qemu/run.py --uboot` needs it; it is in "
                         f"Debian's packages u-boot-qemu and u-boot-tools") from None
    say("u-boot", f"{match[1]} (under {relative(tree)})")
    return {**Program(argv, env, match[1], "fetched").record(), "bios": str(bios)}


def find_mtools(old: dict[str, dict]) -> Program:
    """Finds mtools, which write the FAT partition of U-Boot's disk (boot/disk.py), or fetches them."""
    found = shutil.which("mtools")
    known = recorded("mtools", old)
    if known and (known.origin == "fetched" or known.argv == [found]):
        say("mtools", f"{known.version} ({known.argv[0] if known.origin == 'system' else 'under ' + relative(TOOLS)})")
        return known
    tree = TOOLS / "mtools"
    binary, origin = Path(found or tree / "usr/bin/mtools"), "system" if found else "fetched"
    try:
        if not binary.is_file():
            apt = Apt("base", debian_backports())
            apt.update("mtools")
            apt.fetch_tree("mtools", ["mtools"], apt.sources[0].suite, tree)
        argv, env = ([str(binary)], {}) if found else tree_command(tree, binary, None)
        version, text = program_version(argv, env, r"mtools\) (\d+\.\d+[.\d]*)")
        if version is None:
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError(f"{binary} does not run:\n{indent(text, 4)}")
    except SetupError as error:
        raise SetupError(f"U-Boot could not be got: mtools are missing: {error}\nWhat to do: nothing but disks for U-Boot need them; "
                         f"install Debian's package mtools") from None
    say("mtools", f"{version} ({binary if found else 'fetched to ' + relative(tree)})")
    return Program(argv, env, version, origin)


def find_e2fsprogs(old: dict[str, dict]) -> Program:
    """Finds mke2fs, which makes the disk of the driver's guest (qemu/driverguest.py), or fetches it."""
    # Not every user has /usr/sbin in the path.
    found = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
    known = recorded("e2fsprogs", old)
    if known and (known.origin == "fetched" or known.argv == [found]):
        say("ext4", f"mke2fs {known.version} ({known.argv[0] if known.origin == 'system' else 'under ' + relative(TOOLS)})")
        return known
    tree = TOOLS / "e2fsprogs"

    def unpacked() -> Optional[Path]:
        return next((tree / place for place in ("sbin/mke2fs", "usr/sbin/mke2fs") if (tree / place).is_file()), None)

    try:
        if not found and unpacked() is None:
            apt = Apt("base", debian_backports())
            apt.update("ext4")
            apt.fetch_tree("ext4", ["e2fsprogs"], apt.sources[0].suite, tree)
        binary = Path(found) if found else unpacked()
        if binary is None:
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError("the package e2fsprogs holds no mke2fs")
        argv, env = ([str(binary)], {}) if found else tree_command(tree, binary, None)
        status, text = run([*argv, "-V"], 30, env)
        version = re.search(r"mke2fs (\d+\.\d+[.\d]*)", text)
        if status != 0 or not version:
            shutil.rmtree(tree, ignore_errors=True)
            raise SetupError(f"{binary} does not run:\n{indent(text, 4)}")
    except SetupError as error:
        raise NotDownloaded(f"mke2fs could not be got: {error}\nWhat to do: install Debian's package e2fsprogs") from None
    say("ext4", f"mke2fs {version[1]} ({binary if found else 'fetched to ' + relative(tree)})")
    return Program(argv, env, version[1], "system" if found else "fetched")


HERD_SUITE = "forky"
# The expectations of tests/litmus/ were found with this version, and the model comes with the program.
HERD_MINIMUM = (7, 58)


def find_herd(old: dict[str, dict]) -> Program:
    """Finds herd7, which runs litmus tests under a memory model, or fetches it."""
    candidate = shutil.which("herd7")
    if candidate:
        version = herd_version([candidate], {})
        if numbers(version) >= HERD_MINIMUM:
            say("herd", f"{version} ({candidate})")
            return Program([candidate], {}, version, "system")
        say("herd", f"{candidate} is version {version or 'unknown'}, and {'.'.join(map(str, HERD_MINIMUM))} is needed")
    known = recorded("herd", old)
    if known and known.origin == "fetched":
        say("herd", f"{known.version} (under {relative(TOOLS)})")
        return known
    tree = TOOLS / "herd"
    remedy = (f"What to do: look whether this machine reaches the archives listed under /etc/apt, or install herdtools7 "
              f"{'.'.join(map(str, HERD_MINIMUM))} or newer by hand (opam has it too) so that herd7 is found in PATH; nothing but "
              f"`make litmus` needs it")
    if not (tree / "usr/bin/herd7").is_file():
        try:
            status, text = run(["dpkg", "--print-architecture"], 20)
            if status != 0:
                raise SetupError(f"dpkg does not tell this system's architecture:\n{indent(text)}")
            # By naming the architecture: its C library is another one than this system's, and has to come along.
            apt = Apt("herd", [HERD_SUITE], text.strip())
            apt.update("herd")
            offered = apt.versions("herdtools7")
            good = [entry for entry in offered if numbers(entry[0]) >= HERD_MINIMUM]
            if not good:
                there = ", ".join(f"{version} ({suite})" for version, suite in offered) or "none"
                raise SetupError(f"no archive that could be reached offers a new enough herdtools7 for {text.strip()}; there is: {there}")
            apt.fetch_tree("herd", ["herdtools7"], good[0][1], tree)
            # The package's other programs take a quarter of a gigabyte.
            for program in (tree / "usr/bin").iterdir():
                if program.name != "herd7":
                    program.unlink()
        except SetupError as error:
            raise NotDownloaded(f"herd7 could not be got: {error}\n{remedy}") from None
    argv, env = tree_command(tree, tree / "usr/bin/herd7", None)
    argv += ["-set-libdir", str(tree / "usr/share/herdtools7/herd")]
    version = herd_version(argv, env)
    if not version:
        _, text = run([*argv, "-version"], 30, env)
        shutil.rmtree(tree, ignore_errors=True)
        raise SetupError(f"the herd7 fetched does not run:\n{indent(text)}\n{remedy}")
    say("herd", f"{version} (fetched to {relative(tree)})")
    return Program(argv, env, version, "fetched")


def herd_version(argv: list[str], env: dict[str, str]) -> str:
    """Asks herd7 for its version; empty if it tells none."""
    status, text = run([*argv, "-version"], 30, env)
    match = re.match(r"(\d+\.\d+[\d.]*)", text)
    return match[1] if match and status == 0 else ""


# --------------------------------------------------------------------------------------------------------------------
# A C compiler for arm64 Linux


CROSS = "aarch64-linux-gnu-"
CROSS_PROGRAMS = ("gcc", "ar", "as", "ld", "nm", "objcopy", "objdump", "ranlib", "readelf", "strip")
CROSS_PACKAGES = [f"gcc-{CROSS}"[:-1], f"binutils-{CROSS}"[:-1], "libc6-dev-arm64-cross"]
# What the selftests need of it: threads, a static C library, the instructions of FEAT_MTE, the kernel's headers.
CROSS_TEST = """\
#include <pthread.h>
#include <stdio.h>
#include <asm/hwcap.h>
#include <asm/mman.h>
static void *body(void *tag) { __asm__(".arch armv8.5-a+memtag\\n irg %0, %0" : "+r"(tag)); return tag; }
int main(void) { pthread_t one; pthread_create(&one, 0, body, 0); return printf("%d\\n", HWCAP2_MTE + PROT_MTE) < 0; }
"""


def find_cross(old: dict[str, dict]) -> dict[str, object]:
    """Finds gcc and binutils for arm64 Linux, or fetches them; returns what tools.json says of them."""
    candidate = shutil.which(CROSS + "gcc")
    if candidate:
        version = cross_version([candidate], {})
        trouble = check_cross([candidate], {})
        missing = [program for program in CROSS_PROGRAMS if not shutil.which(CROSS + program)]
        if missing:
            trouble = f"    there is no {', '.join(CROSS + program for program in missing)}"
        if trouble is None:
            say("cross", f"{version} ({candidate})")
            return {**Program([candidate], {}, version, "system").record(), "prefix": CROSS}
        say("cross", f"{candidate} makes no static programs with memory tagging, and is not used:")
        print(trouble, flush=True)
    known = recorded("cross", old)
    tree = TOOLS / "cross"
    binary = tree / "usr/bin" / (CROSS + "gcc")
    if known and known.origin == "fetched" and binary.is_file():
        say("cross", f"{known.version} (under {relative(TOOLS)})")
        return old["cross"]
    remedy = (f"What to do: look whether this machine reaches the archives listed under /etc/apt, or install the packages "
              f"{' '.join(CROSS_PACKAGES)} by hand")
    if not binary.is_file():
        try:
            # Whole, even where the system has parts of it: gcc finds its parts by its own place.
            apt = Apt("cross", [], absent=r"aarch64-linux-gnu|arm64-cross|-cross-base")
            apt.update("cross")
            apt.fetch_tree("cross", CROSS_PACKAGES, apt.sources[0].suite, tree)
        except SetupError as error:
            raise NotDownloaded(f"a C compiler for arm64 Linux could not be got: {error}\n{remedy}") from None
    # The parts' libraries are found by the environment.
    env = {"LD_LIBRARY_PATH": ":".join(library_directories(tree))}
    version = cross_version([str(binary)], env)
    trouble = check_cross([str(binary)], env)
    if trouble is not None:
        shutil.rmtree(tree, ignore_errors=True)
        raise SetupError(f"the C compiler fetched makes no static programs with memory tagging:\n{trouble}\n{remedy}")
    for program in CROSS_PROGRAMS:
        script = write_wrapper(CROSS + program, Program([str(tree / "usr/bin" / (CROSS + program))], env, version, "fetched"))
    say("cross", f"{version} (fetched to {relative(tree)}; CROSS_COMPILE={relative(script.parent)}/{CROSS})")
    return {**Program([str(binary)], env, version, "fetched").record(), "prefix": str(script.parent / CROSS)}


def cross_version(argv: list[str], env: dict[str, str]) -> str:
    """Asks a C compiler for its version; empty if it tells none."""
    status, text = run([*argv, "-dumpfullversion"], 30, env)
    return text.strip() if status == 0 else ""


def check_cross(argv: list[str], env: dict[str, str]) -> Optional[str]:
    """Compiles and links a small program; returns what went wrong, if anything."""
    made = BUILD / "cross-test"
    status, text = run([*argv, "-static", "-pthread", "-x", "c", "-o", str(made), "-"], 60, env, stdin=CROSS_TEST)
    try:
        # The ELF header's e_machine: 183 is AArch64.
        if status == 0 and made.read_bytes()[18:20] == b"\xb7\0":
            return None
        return indent(text or "it compiles for another machine", 6)
    except OSError as error:
        return f"    {error}"
    finally:
        made.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------------
# Rust


@dataclass
class Rust:
    """What cargo needs for the bare-metal target, beyond naming it."""

    cargo_flags: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """Returns what tools.json says of Rust."""
        return {"target": TARGET, "cargo_flags": self.cargo_flags, "env": self.env}


def target_installed(sysroot: Path) -> bool:
    """Tells whether the bare-metal target's core library is installed."""
    return any((sysroot / "lib" / "rustlib" / TARGET / "lib").glob("libcore-*.rlib"))


def find_rust(ignore_rustup: bool) -> Rust:
    """Finds the bare-metal target, adds it, or arranges for `core` to be built from source."""
    for program in ("rustc", "cargo"):
        if not shutil.which(program):
            raise SetupError(f"{program} is not there. What to do: install Rust 1.88 or newer, with rustup or from your "
                             f"distribution")
    if not shutil.which("cc") and not shutil.which("gcc"):
        raise SetupError("no C compiler is there, and cargo needs one to link programs for this machine. What to do: "
                         "install gcc")
    status, text = run(["rustc", "--version"], 120, cwd=ROOT)
    match = re.search(r"^rustc (\d+\.\d+\.\d+)(\S*)", text, re.M)
    if status != 0 or not match:
        raise SetupError(f"rustc does not run:\n{indent(text, 4)}")
    version = match[1]
    _, text = run(["rustc", "--print", "sysroot"], 60, cwd=ROOT)
    sysroot = Path(text.strip().splitlines()[-1])
    if not ignore_rustup and target_installed(sysroot):
        say("rust", f"{version}, target {TARGET} is installed")
        return Rust()
    if not ignore_rustup and shutil.which("rustup"):
        say("rust", f"{version}, adding target {TARGET} with rustup")
        status, text = run(["rustup", "target", "add", TARGET], RUSTUP_SECONDS, cwd=ROOT)
        if target_installed(sysroot):
            say("rust", f"target {TARGET} added")
            return Rust()
        print(indent(text, 5), flush=True)
        why = "rustup could not add it" if status != 0 else "rustup added it to another toolchain than rustc's"
    else:
        why = "there is no rustup"
    say("rust", f"target {TARGET} is not installed and {why}: building core from source instead")
    library = find_library_source(sysroot, version)
    rust = source_built(sysroot, library)
    say("rust", f"{version}, core and alloc for {TARGET} are built from {relative(library)}")
    return rust


def find_library_source(sysroot: Path, version: str) -> Path:
    """Finds the standard library's source of exactly the compiler's version, or fetches it."""
    own = sysroot / "lib" / "rustlib" / "src" / "rust" / "library"
    if (own / "core" / "Cargo.toml").is_file():
        return own
    tree = TOOLS / f"rust-src-{version}"

    def unpacked() -> Optional[Path]:
        found = sorted(tree.glob("usr/src/*/library/core/Cargo.toml")) + sorted(
            tree.glob("usr/lib/rustlib/src/rust/library/core/Cargo.toml"))
        return found[0].parent.parent if found else None

    if unpacked() is None:
        remedy = (f"What to do: `rustup target add {TARGET}` where rustup's server can be reached, or install a rustc whose "
                  f"version some Debian suite has rust-src for")
        try:
            apt = Apt("rust", [*debian_backports(), "trixie", "forky", "sid"])
            apt.update("rust")
            versions = apt.versions("rust-src")
            same = [found for found, _ in versions if re.match(re.escape(version) + r"(?![\d.])", found)]
            if not same:
                offered = ", ".join(dict.fromkeys(f"{found} ({suite})" for found, suite in versions)) or "none at all"
                raise SetupError(f"no Debian suite has rust-src of version {version}, and another version's does not "
                                 f"compile with this rustc; there is: {offered}")
            apt.fetch_one("rust", "rust-src", same[0], tree)
        except SetupError as error:
            raise SetupError(f"the Rust target {TARGET} could not be got: {error}\n{remedy}") from None
    library = unpacked()
    if library is None:
        raise SetupError(f"the rust-src package under {relative(tree)} holds no library/core")
    return library


def link(name: Path, to: Path) -> None:
    """Makes a symbolic link, over an older one if need be."""
    if name.is_symlink():
        if os.readlink(name) == str(to):
            return
        name.unlink()
    name.symlink_to(to)


def source_built(sysroot: Path, library: Path) -> Rust:
    """Arranges for cargo to build core and alloc itself.

    Cargo looks for the library's source inside the compiler's sysroot. That is not ours to change, so a second sysroot
    is made of links to the first one plus the source, and a small script in place of rustc names it.
    """
    mirror = TOOLS / "rust-sysroot"
    rustlib = mirror / "lib" / "rustlib"
    (rustlib / "src").mkdir(parents=True, exist_ok=True)
    for entry in sysroot.iterdir():
        if entry.name != "lib":
            link(mirror / entry.name, entry)
    for entry in (sysroot / "lib").iterdir():
        if entry.name != "rustlib":
            link(mirror / "lib" / entry.name, entry)
    for entry in (sysroot / "lib" / "rustlib").iterdir():
        if entry.name != "src":
            link(rustlib / entry.name, entry)
    link(rustlib / "src" / "rust", library.parent)
    script = TOOLS / "rustc-with-source"
    text = ("#!/bin/sh\n# Runs rustc with a sysroot that has the library's source. Written by qemu/setup.py.\n"
            f"exec '{shutil.which('rustc')}' --sysroot '{mirror}' \"$@\"\n")
    if not script.exists() or script.read_text() != text:
        script.write_text(text)
        script.chmod(0o755)
    return Rust(["-Zbuild-std=core,alloc,compiler_builtins", "-Zbuild-std-features=compiler-builtins-mem"],
                {"RUSTC": str(script), "RUSTC_BOOTSTRAP": "1"})


# --------------------------------------------------------------------------------------------------------------------
# The Linux guest


LINUX = BUILD / "linux"
# The kernel that the checks were written with: Debian 12's. Another one does where it is not to be had.
LINUX_SUITE = "bookworm"
LINUX_SERIES = "6.1"
LINUX_ARCHITECTURE = "arm64"
# Swap space in compressed memory, with what it needs where that is no part of the kernel itself.
LINUX_MODULES = {"zram", "zsmalloc", "lzo", "lzo-rle", "lzo_compress", "lzo_decompress"}


def find_linux(old: dict[str, dict]) -> dict[str, str]:
    """Finds the guest's kernel and busybox of an earlier set-up, or fetches them."""
    known = old.get("linux")
    if isinstance(known, dict) and all(known.get(name) for name in ("kernel", "busybox", "release", "version")):
        if (all(known.get(f"{name}-stamp") == stamp(Path(known[name])) for name in ("kernel", "busybox"))
                and known.get("modules") and Path(known["modules"]).is_dir()):
            say("linux", f"{known['release']}, package version {known['version']} (under {relative(LINUX)})")
            return known
    release = os_release()
    if release.get("ID") != "debian":
        raise NotDownloaded(f"the Linux guest is Debian's, and this system is {release.get('PRETTY_NAME', 'unknown')}. What "
                            f"to do: run `make linux` on Debian 12 or newer")
    try:
        apt = Apt("linux", [LINUX_SUITE], LINUX_ARCHITECTURE)
        apt.update("linux")
        version, suite = choose_linux(apt)
        depends = apt.facts("linux-image-arm64", version).get("Depends", "")
        image = re.search(r"\blinux-image-(\S+-arm64) \(= ([^)\s]+)\)", depends)
        if not image:
            raise SetupError(f"package linux-image-arm64 {version} names no kernel that it depends on: '{depends}'")
        LINUX.mkdir(parents=True, exist_ok=True)
        kernel, busybox, modules = LINUX / "Image", LINUX / "busybox", LINUX / "modules"
        deb = apt.download("linux", f"linux-image-{image[1]}", image[2])
        write_whole(kernel, plain_image(read_member(deb, f"boot/vmlinuz-{image[1]}")))
        keep_modules(deb, image[1], modules)
        versions = [entry for entry in apt.versions("busybox-static") if entry[1] == suite] or apt.versions("busybox-static")
        if not versions:
            raise NotDownloaded("no archive that could be reached offers busybox-static for arm64")
        deb = apt.download("linux", "busybox-static", versions[0][0])
        write_whole(busybox, read_member(deb, "bin/busybox", "usr/bin/busybox"))
        shutil.rmtree(deb.parent)
    except SetupError as error:
        raise type(error)(f"the Linux guest could not be got: {error}\nWhat to do: look whether this machine reaches the "
                          f"archives listed under /etc/apt; `make run` and the other tests need no Linux") from None
    say("linux", f"{image[1]}, package version {image[2]} (fetched to {relative(LINUX)})")
    return {"kernel": str(kernel), "busybox": str(busybox), "modules": str(modules), "release": image[1],
            "version": image[2], "suite": suite, "kernel-stamp": stamp(kernel), "busybox-stamp": stamp(busybox)}


def choose_linux(apt: Apt) -> tuple[str, str]:
    """Picks the version of Debian's arm64 kernel to fetch: the newest of the series wanted, else the system's own."""
    offered = [(version, suite) for version, suite in apt.versions("linux-image-arm64") if "backports" not in suite]
    if not offered:
        raise NotDownloaded("no archive that could be reached offers linux-image-arm64")
    for version, suite in offered:
        if numbers(version)[:2] == numbers(LINUX_SERIES):
            return version, suite
    version, suite = next((entry for entry in offered if entry[1].startswith(apt.codename)), offered[0])
    say("linux", f"no archive has Linux {LINUX_SERIES} any more, with which the checks were written: taking {version} of {suite}")
    return version, suite


SELFTESTS = BUILD / "mte-selftest"
# Of the kernel's sources: the tests of memory tagging, and the headers of all tests.
SELFTEST_FILES = re.compile(r"[^/]+/tools/testing/selftests/(arm64/mte/[^/]+\.[chS]|[^/]+\.h)")


def find_selftests(linux: dict[str, str]) -> dict[str, str]:
    """Finds the kernel's own selftests of memory tagging, for the guest's kernel, or fetches them."""
    series = ".".join(map(str, numbers(linux["release"])[:2]))
    package = f"linux-source-{series}"
    try:
        tree = SELFTESTS / f"source-{linux['version']}"
        if (tree / "arm64/mte").is_dir():
            say("tests", f"{package} {linux['version']} (under {relative(tree)})")
            return {"source": str(tree), "version": linux["version"], "package": package}
        apt = Apt("linux", [LINUX_SUITE], LINUX_ARCHITECTURE)
        apt.update("tests")
        offered = [version for version, _ in apt.versions(package)]
        if not offered:
            raise NotDownloaded(f"no archive that could be reached offers {package}")
        version = linux["version"] if linux["version"] in offered else offered[0]
        if version != linux["version"]:
            say("tests", f"no archive has {package} {linux['version']}: taking {version}")
            tree = SELFTESTS / f"source-{version}"
        if not (tree / "arm64/mte").is_dir():
            deb = apt.download("tests", package, version)
            say("tests", "looking through the kernel's sources for the selftests (half a minute)")
            extract_selftests(deb, tree)
            shutil.rmtree(deb.parent)
    except SetupError as error:
        raise type(error)(f"the kernel's selftests could not be got: {error}\nWhat to do: look whether this machine reaches the "
                          f"archives listed under /etc/apt; only `make mte-selftest` needs them") from None
    say("tests", f"{package} {version} (fetched to {relative(tree)})")
    return {"source": str(tree), "version": version, "package": package}


def extract_selftests(deb: Path, destination: Path) -> None:
    """Takes the selftests out of the archive of sources that a package holds, without unpacking the rest of it."""
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    found = 0
    for archive, data in package_files(deb):
        if not re.search(r"/linux-source-[\d.]+\.tar\.xz$", archive):
            continue
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r|xz") as sources:
                for member in sources:
                    name = SELFTEST_FILES.fullmatch(member.name.removeprefix("./"))
                    file = sources.extractfile(member) if name and member.isfile() else None
                    if name and file:
                        place = partial / name[1]
                        place.parent.mkdir(parents=True, exist_ok=True)
                        place.write_bytes(file.read())
                        found += name[1].startswith("arm64/mte/check_")
        except (tarfile.TarError, lzma.LZMAError) as error:
            raise SetupError(f"{archive} in {deb.name} cannot be unpacked: {error}") from None
    if not found:
        raise SetupError(f"{deb.name} holds no tools/testing/selftests/arm64/mte")
    partial.rename(destination)


def read_member(deb: Path, *names: str) -> bytes:
    """Reads one file out of a package, without unpacking the rest of it."""
    for name, data in package_files(deb):
        if name in names:
            return data
    raise SetupError(f"{deb.name} holds no {' or '.join(names)}")


def keep_modules(deb: Path, release: str, destination: Path) -> None:
    """Keeps those modules of a kernel's package that the guest loads, under a directory that is whole once it is there."""
    shutil.rmtree(destination, ignore_errors=True)
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, data in package_files(deb):
        module = re.fullmatch(rf"(?:usr/)?lib/modules/{re.escape(release)}/.*?([^/]+)\.ko(\.xz)?", name)
        if module and module[1] in LINUX_MODULES:
            (partial / f"{module[1]}.ko").write_bytes(lzma.decompress(data) if module[2] else data)
    partial.rename(destination)


def plain_image(data: bytes) -> bytes:
    """Returns the arm64 Image in a kernel file: as it is, compressed, or in an EFI wrapper that unpacks itself."""
    try:
        if data[4:8] == b"zimg":
            # Linux, drivers/firmware/efi/libstub/zboot-header.S: offset and size of the payload, then its compression.
            offset, size = struct.unpack_from("<II", data, 8)
            kind = data[24:56].split(b"\0")[0].decode(errors="replace")
            data = unpack(kind, data[offset:offset + size])
        elif data[:2] == b"\x1f\x8b":
            data = unpack("gzip", data)
        elif data[:6] == b"\xfd7zXZ\0":
            data = unpack("xz", data)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, struct.error) as error:
        raise SetupError(f"the kernel cannot be unpacked: {error}") from None
    if data[0x38:0x3C] != b"ARM\x64":
        raise SetupError(f"the kernel begins with {data[:4]!r} and is no arm64 Image")
    return data


def unpack(kind: str, data: bytes) -> bytes:
    """Decompresses data that padding may follow. `kind` is named as Linux's zboot header does."""
    if kind == "gzip":
        return zlib.decompressobj(wbits=31).decompress(data)
    if kind in ("xz", "xzkern", "lzma"):
        return lzma.LZMADecompressor().decompress(data)
    if kind in ("zstd", "zstd22"):
        return unpack_zstd(data)
    raise SetupError(f"the kernel is compressed with {kind}, and only gzip, xz, lzma and zstd are unpacked here")


def unpack_zstd(data: bytes) -> bytes:
    """Decompresses one frame of zstd, by the library that apt itself needs: Python before 3.14 has none."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise SetupError(f"the kernel is compressed with zstd, and the library for it is not there ({error}). What to do: "
                         f"install the package libzstd1") from None
    for name, result, arguments in (
            ("ZSTD_findFrameCompressedSize", ctypes.c_size_t, [ctypes.c_char_p, ctypes.c_size_t]),
            ("ZSTD_getFrameContentSize", ctypes.c_ulonglong, [ctypes.c_char_p, ctypes.c_size_t]),
            ("ZSTD_decompress", ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]),
            ("ZSTD_isError", ctypes.c_uint, [ctypes.c_size_t])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    length = library.ZSTD_findFrameCompressedSize(data, len(data))
    # The size is not always noted down; a kernel is never larger than this.
    size = min(library.ZSTD_getFrameContentSize(data, len(data)), 256 << 20)
    if library.ZSTD_isError(length):
        raise SetupError("the kernel cannot be unpacked: no frame of zstd is there")
    space = ctypes.create_string_buffer(size)
    size = library.ZSTD_decompress(space, size, data, length)
    if library.ZSTD_isError(size):
        raise SetupError("the kernel cannot be unpacked: the frame of zstd is damaged")
    return space.raw[:size]


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file that appears only when it is complete."""
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(data)
    partial.rename(file)


# --------------------------------------------------------------------------------------------------------------------
# The kernels of `make linux-test`


KERNELS = LINUX / "kernels"
# A directory with the Image.xz of a kernel that Debian does not have, see the kernel `cleancache` below.
CLEANCACHE_VARIABLE = "CLEANCACHE_KERNEL"


@dataclass(frozen=True)
class KernelSource:
    """Where a kernel is to be had: a Debian package, in the newest version that a suite has."""

    package: str
    suite: str


# By the names that `--kernel` takes. Debian 12, Debian 13, its 16 KiB pages, and the newest that Debian 13 can run.
KERNEL_SOURCES = {
    "6.1": KernelSource("linux-image-arm64", "bookworm"),
    "6.12": KernelSource("linux-image-arm64", "trixie"),
    "6.12-16k": KernelSource("linux-image-arm64-16k", "trixie"),
    "newest": KernelSource("linux-image-arm64", "trixie-backports"),
}
# Linux 5.10 with cleancache, which no distribution builds.
CLEANCACHE = "5.10"
KERNEL_NAMES = [CLEANCACHE, *KERNEL_SOURCES]


def find_kernels(names: list[str], old: dict[str, dict]) -> tuple[dict[str, dict[str, str]], Optional[SetupError]]:
    """Finds kernels of an earlier set-up, or fetches them; returns what tools.json says of all, and the worst trouble."""
    before = old.get("kernels")
    records: dict[str, dict[str, str]] = dict(before) if isinstance(before, dict) else {}
    worst: Optional[SetupError] = None
    for name in names:
        try:
            if name == CLEANCACHE:
                records[name] = find_cleancache_kernel(records.get(name))
            else:
                records[name] = find_kernel(name, records.get(name))
        except SetupError as error:
            records.pop(name, None)
            trouble = type(error)(f"kernel {name} could not be got: {error}")
            # The last is told when all have been tried.
            if worst is not None:
                print(f"setup: {worst}", file=sys.stderr)
            if worst is None or trouble.status != NotDownloaded.status or worst.status == NotDownloaded.status:
                worst = trouble
    return records, worst


def kernel_is_there(record: Optional[dict[str, str]], stamp_name: str, wanted: str) -> bool:
    """Tells whether a kernel of an earlier set-up can be used."""
    return (isinstance(record, dict) and all(record.get(key) for key in ("kernel", "release", "version"))
            and record.get("kernel-stamp") == stamp(Path(record["kernel"])) and record.get(stamp_name) == wanted)


def find_kernel(name: str, known: Optional[dict[str, str]]) -> dict[str, str]:
    """Finds one of Debian's kernels, or fetches it with its modules."""
    source = KERNEL_SOURCES[name]
    if known and kernel_is_there(known, "package", source.package) and Path(known.get("modules", "")).is_dir():
        say("kernel", f"{name}: {known['release']}, package version {known['version']} (under {relative(KERNELS / name)})")
        return known
    release = os_release()
    if release.get("ID") != "debian":
        raise NotDownloaded(f"it is Debian's, and this system is {release.get('PRETTY_NAME', 'unknown')}. What to do: run "
                            f"this on Debian 12 or newer")
    apt = Apt("kernels", list(dict.fromkeys(entry.suite for entry in KERNEL_SOURCES.values())), "arm64")
    apt.update("kernel")
    # A suite, and what goes with it: bookworm-security, bookworm-updates.
    offered = [entry for entry in apt.versions(source.package) if entry[1] == source.suite or (
        entry[1].startswith(source.suite + "-") and not entry[1].endswith("-backports"))]
    if not offered:
        raise NotDownloaded(f"no archive that could be reached offers {source.package} in {source.suite}. What to do: look "
                            f"whether this machine reaches the archives listed under /etc/apt")
    version, suite = offered[0]
    depends = apt.facts(source.package, version).get("Depends", "")
    image = re.search(r"\blinux-image-(\S+) \(= ([^)\s]+)\)", depends)
    if not image:
        raise SetupError(f"package {source.package} {version} names no kernel that it depends on: '{depends}'")
    kernel, modules = fetch_kernel(apt, image[1], image[2], KERNELS / name)
    say("kernel", f"{name}: {image[1]}, package version {image[2]} (fetched to {relative(KERNELS / name)})")
    return {"kernel": str(kernel), "modules": str(modules), "release": image[1], "version": image[2], "package": source.package,
            "suite": suite, "kernel-stamp": stamp(kernel)}


def fetch_kernel(apt: Apt, release: str, version: str, destination: Path) -> tuple[Path, Path]:
    """Downloads a kernel and its modules, unpacks both; returns where they are.

    Newer kernels have both in packages of their own, on which linux-image depends, and the kernel with the modules.
    """
    depends = apt.facts(f"linux-image-{release}", version).get("Depends", "")
    parts = re.findall(rf"\b(linux-(?:binary|modules)-{re.escape(release)})(?: \(= ([^)\s]+)\))?", depends)
    packages = [(package, wanted or version) for package, wanted in parts] + [(f"linux-image-{release}", version)]
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "modules").mkdir(parents=True)
    for package, wanted in packages:
        deb = apt.download("kernel", package, wanted)
        for name, data in package_files(deb):
            module = re.fullmatch(rf"(?:usr/)?lib/modules/{re.escape(release)}/(.+)", name)
            if name == f"boot/vmlinuz-{release}" or (module and module[1] == "vmlinuz"):
                write_whole(partial / "Image", plain_image(data))
            elif module and ".." not in module[1].split("/"):
                file = partial / "modules" / module[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
        shutil.rmtree(deb.parent)
    if not (partial / "Image").is_file():
        raise SetupError(f"the packages {', '.join(package for package, _ in packages)} hold no vmlinuz of {release}")
    if not any((partial / "modules").rglob("*.ko*")):
        raise SetupError(f"the packages {', '.join(package for package, _ in packages)} hold no modules for {release}")
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)
    return destination / "Image", destination / "modules"


def package_files(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Reads the regular files of a package, one after the other."""
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file:
                    yield member.name.removeprefix("./"), file.read()
    except tarfile.TarError as error:
        raise SetupError(f"{deb.name} cannot be unpacked: {error}") from None
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def find_cleancache_kernel(known: Optional[dict[str, str]]) -> dict[str, str]:
    """Unpacks the 5.10 kernel of the directory that the environment names, or takes the one that was built here."""
    directory = os.environ.get(CLEANCACHE_VARIABLE, "")
    if not directory:
        return built_cleancache_kernel()
    packed = Path(directory).resolve() / "Image.xz"
    if known and kernel_is_there(known, "packed-stamp", stamp(packed)):
        say("kernel", f"{CLEANCACHE}: {known['release']} (under {relative(KERNELS / CLEANCACHE)})")
        return known
    try:
        data = plain_image(packed.read_bytes())
    except OSError as error:
        raise NotDownloaded(f"{packed}: {error.strerror}. What to do: correct the environment variable "
                            f"{CLEANCACHE_VARIABLE}") from None
    release = re.search(rb"Linux version (\S+)", data)
    kernel = KERNELS / CLEANCACHE / "Image"
    kernel.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kernel, data)
    name = release[1].decode(errors="replace") if release else "unknown"
    say("kernel", f"{CLEANCACHE}: {name} (unpacked to {relative(kernel.parent)})")
    return {"kernel": str(kernel), "release": name, "version": name, "packed-stamp": stamp(packed), "kernel-stamp": stamp(kernel)}


def built_cleancache_kernel() -> dict[str, str]:
    """Returns the 5.10 kernel that `--only cleancache-kernel` built; it is never built by the way."""
    sys.modules.setdefault("setup", sys.modules[__name__])
    import cleancache  # pylint: disable=import-outside-toplevel
    built = cleancache.find(CLEANCACHE)
    say("kernel", f"{CLEANCACHE}: {built.release} ({relative(built.image)})")
    return {"kernel": str(built.image), "release": built.release, "version": built.release, "kernel-stamp": stamp(built.image)}


# --------------------------------------------------------------------------------------------------------------------
# Trees to build modules in


MODULE_TREES = ["headers", "cleancache-kernel", "cleancache-debug"]


def find_module_trees(wanted: list[str], names: Optional[list[str]], jobs: int, tools: dict[str, dict]) -> Optional[SetupError]:
    """Finds the trees that `make driver` builds in, or makes them; returns the worst trouble."""
    # They use this module, under its own name.
    sys.modules.setdefault("setup", sys.modules[__name__])
    import cleancache  # pylint: disable=import-outside-toplevel
    import headers  # pylint: disable=import-outside-toplevel
    steps = [(name, lambda name=name: headers.find(name, tools, True))
             for name in (names or headers.NAMES) if "headers" in wanted and name in headers.NAMES]
    steps += [(name, lambda name=name: cleancache.find(name, True, jobs))
              for name, only in zip(cleancache.NAMES, MODULE_TREES[1:]) if only in wanted]
    worst: Optional[SetupError] = None
    for name, find in steps:
        try:
            kernel = find()
            say("trees", f"{name}: {kernel.release} ({relative(kernel.tree)})")
        except SetupError as error:
            # The last is told when all have been tried.
            if worst is not None:
                print(f"setup: {worst}", file=sys.stderr)
            worse = worst is None or worst.status == NotDownloaded.status
            worst = type(error)(f"there is no tree to build modules for {name}: {error}") if worse else worst
    return worst


# --------------------------------------------------------------------------------------------------------------------


def write_if_changed(file: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file only when its contents change, so that make does not rebuild for nothing. Who reads it meanwhile sees all of it."""
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text)
        partial.chmod(mode)
        partial.replace(file)


def wait_for_others() -> int:
    """Waits until no other set-up of this directory runs; returns the open lock file, which closes with the process."""
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = os.open(BUILD / "setup.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("setup: waiting for another that is at work in this directory", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main() -> int:
    """Sets everything up; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog="Results are kept under build/.")
    parser.add_argument("--only", choices=["rust", "qemu", "dtc", "u-boot", "linux", "kernels", "herd", "qemu-newest", "cross",
                                           "selftests", *MODULE_TREES, "e2fsprogs"], action="append",
                        help="look after this only (may be given again); u-boot, linux, the guest of `make linux`, kernels, for "
                             "`make linux-test`, herd, for `make litmus`, qemu-newest, for `make linux-compare`, cross, a C compiler for "
                             "arm64 Linux, and selftests, for `make mte-selftest`, are got only when they are asked for; so are headers, trees "
                             "to build modules for Debian's kernels, and cleancache-kernel and cleancache-debug, a Linux 5.10 with cleancache "
                             "that is built here (minutes), for `make driver`")
    parser.add_argument("--kernel", choices=KERNEL_NAMES, action="append",
                        help="with `--only kernels` (which it stands for), get this kernel (may be given again; default: all); with "
                             "`--only headers`, the tree for it")
    parser.add_argument("--jobs", type=int, default=0, metavar="N",
                        help="with cleancache-kernel or cleancache-debug, run so many compilers at a time (default: one per CPU)")
    parser.add_argument("--ignore-system", action="store_true",
                        help="fetch QEMU and dtc even where the system has good ones")
    parser.add_argument("--ignore-rustup", action="store_true",
                        help="build core from source even where the target is installed or could be added")
    options = parser.parse_args()
    wanted = (options.only or []) + (["kernels"] if options.kernel and "headers" not in (options.only or []) else [])
    wanted = wanted or ["rust", "qemu", "dtc"]

    try:
        wait_for_others()
    except OSError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    try:
        old = json.loads(TOOLS_JSON.read_text())
        if not isinstance(old, dict):
            old = {}
    except (OSError, ValueError):
        old = {}
    new = dict(old)
    trouble: Optional[SetupError] = None
    try:
        BUILD.mkdir(parents=True, exist_ok=True)
        if "rust" in wanted:
            new["rust"] = find_rust(options.ignore_rustup).record()
        if "qemu" in wanted:
            qemu = find_qemu(old, options.ignore_system)
            new["qemu"] = qemu.record()
            write_wrapper(QEMU_BINARY, qemu)
        if "dtc" in wanted:
            dtc = find_dtc(old, options.ignore_system)
            new["dtc"] = dtc.record()
            write_wrapper("dtc", dtc)
        if "u-boot" in wanted:
            new["u-boot"] = find_uboot()
            new["mtools"] = find_mtools(old).record()
        if "linux" in wanted:
            new["linux"] = find_linux(old)
        if "kernels" in wanted:
            new["kernels"], trouble = find_kernels(options.kernel or KERNEL_NAMES, old)
        if "qemu-newest" in wanted:
            new["qemu-newest"] = find_qemu_newest(old).record()
        if "herd" in wanted:
            new["herd"] = find_herd(old).record()
        if "e2fsprogs" in wanted:
            new["e2fsprogs"] = find_e2fsprogs(old).record()
        if "cross" in wanted:
            new["cross"] = find_cross(old)
        if "selftests" in wanted:
            new["linux"] = new.get("linux") or find_linux(old)
            new["selftests"] = find_selftests(new["linux"])
        if any(name in wanted for name in MODULE_TREES):
            new["cross"] = find_cross(old)
            write_if_changed(TOOLS_JSON, json.dumps(new, indent=2) + "\n")
            trouble = find_module_trees(wanted, options.kernel, options.jobs, new) or trouble
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    write_if_changed(TOOLS_JSON, json.dumps(new, indent=2) + "\n")
    rust = new.get("rust", {})
    words = [f"{key}='{value}'" for key, value in rust.get("env", {}).items()]
    write_if_changed(CARGO_ENV, " ".join(words) + "\n")
    write_if_changed(CARGO_FLAGS, " ".join(rust.get("cargo_flags", [])) + "\n")
    if trouble is not None:
        # Told last, because what else was asked for has been noted down above.
        print(f"setup: {trouble}", file=sys.stderr)
        return trouble.status
    return 0


if __name__ == "__main__":
    # So that what was started is ended, and what is half done put away, as for Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("setup: interrupted", file=sys.stderr)
        sys.exit(130)
