#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes the release archive in two clones, in directories of different length, and compares all bytes.

The clones hold this working tree (files that git knows, with their changes), and share nothing but cargo's downloads. Prints TAP.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Callable

import tap

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
# Not below this directory, whose .cargo/config.toml cargo would add to the clone's own.
SCRATCH = Path(tempfile.gettempdir()).resolve() / f"tagstash-dist-{os.getpid()}"
PLACES = (SCRATCH / "a", SCRATCH / "a-directory" / "with-a-much-longer-path" / "tagstash")
BUILD_SECONDS = 420
# What a path of the machine that built looks like. Paths of the compiler's library and of device trees are the same everywhere.
FOREIGN = re.compile(rb"/(?:root|home|tmp|usr|opt|var|mnt|work|Users|builds?|runner)/[\w.-]+(?:/[\w.-]+)*|/?(?:[\w.-]+/)+registry/src/[\w./-]+")


class Failure(Exception):
    """What is not as it should be."""


def expect(condition: bool, text: str) -> None:
    """Fails with a text unless a condition holds."""
    if not condition:
        raise Failure(text)


def run(command: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    # As from a shell of its own: nothing of the make or cargo around this test.
    own = {name: value for name, value in os.environ.items()
           if not name.startswith(("TAGSTASH_", "GIT_", "MAKE", "MFLAGS")) and name not in ("SOURCE_DATE_EPOCH", "FORCE")}
    return subprocess.run(command, cwd=cwd, env={**own, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=BUILD_SECONDS, check=False)


def good(command: list[str], cwd: Path, **env: str) -> str:
    """Runs a command that has to succeed; returns what it printed."""
    done = run(command, cwd, **env)
    expect(done.returncode == 0, f"`{' '.join(command)}` ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout.strip()


def snapshot() -> str:
    """Returns a commit that holds this working tree with its changes. It is in no branch."""
    return good(["git", "stash", "create"], ROOT, GIT_AUTHOR_NAME="test", GIT_AUTHOR_EMAIL="test@localhost",
                GIT_COMMITTER_NAME="test", GIT_COMMITTER_EMAIL="test@localhost") or good(["git", "rev-parse", "HEAD"], ROOT)


def clone(place: Path, commit: str) -> None:
    """Makes a clone of a commit by sharing the repository's objects, which finds it in no branch too."""
    git = ROOT / good(["git", "rev-parse", "--git-common-dir"], ROOT)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    good(["git", "init", "--quiet"], place)
    (place / ".git/objects/info/alternates").write_text(f"{git / 'objects'}\n")
    if (git / "shallow").exists():
        shutil.copyfile(git / "shallow", place / ".git/shallow")
    good(["git", "-c", "advice.detachedHead=false", "checkout", "--quiet", commit], place)
    # QEMU and the device-tree compiler have no part in the archive's bytes, and are not fetched again.
    (place / "build").mkdir()
    shutil.copyfile(BUILD / "tools.json", place / "build/tools.json")
    (place / "build/tools").symlink_to(BUILD / "tools")


def archive(place: Path) -> Path:
    """Finds the archive that a clone made."""
    found = sorted((place / "build/dist").glob("*.tar.gz"))
    expect(len(found) == 1, f"{len(found)} archives are in {place / 'build/dist'}")
    return found[0]


def members(place: Path) -> dict[str, bytes]:
    """Reads the archive that a clone made, by name below its one directory."""
    with tarfile.open(archive(place)) as packed:
        return {entry.name.split("/", 1)[1]: packed.extractfile(entry).read() for entry in packed}  # type: ignore[union-attr]


def builds() -> None:
    """Makes both archives, without the network."""
    commit = snapshot()
    for place in PLACES:
        clone(place, commit)
        good(["make", "dist"], place, CARGO_NET_OFFLINE="true")
        good(["git", "diff", "--quiet", "HEAD"], place)


def same_bytes() -> None:
    """Compares the archives, file by file first: that says where they part."""
    one, two = (members(place) for place in PLACES)
    expect(one.keys() == two.keys(), f"the archives hold other files: {sorted(one.keys() ^ two.keys())}")
    expect([name for name in one if one[name] != two[name]] == [], f"files differ: {[name for name in one if one[name] != two[name]]}")
    expect(archive(PLACES[0]).read_bytes() == archive(PLACES[1]).read_bytes(), "the files are the same, their packing is not")


def whole() -> None:
    """Looks for what belongs into the archive, and verifies its sums."""
    found = members(PLACES[0])
    for name in ("tagstash.img", "tagstash.elf", "README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL-2.0",
                 "docs/abi.md", "licences/THIRD-PARTY.txt"):
        expect(len(found.get(name, b"")) > 100, f"{name} is missing or empty")
    for pattern in ("docs/*.md", "boot/*.cmd", "boot/*.its", "boot/*.dtso", "boot/*.py", "boot/linux/*"):
        for path in PLACES[0].glob(pattern):
            name = path.relative_to(PLACES[0]).as_posix()
            expect(not path.is_file() or name in found, f"{name} is missing")
    sums = dict(line.split("  ", 1)[::-1] for line in found["SHA256SUMS"].decode().splitlines())
    expect(sums == {name: hashlib.sha256(data).hexdigest() for name, data in found.items() if name != "SHA256SUMS"},
           "SHA256SUMS does not list just the archive's files with their sums")
    for crate in re.findall(r"^([\w-]+) ([\w.+-]+): ", found["licences/THIRD-PARTY.txt"].decode(), re.M):
        expect(any(name.startswith(f"licences/{'-'.join(crate)}/") for name in found), f"the licence of {crate} is missing")
    for crate in (b"fdt-", b"dtoolkit-", b"spin-"):
        expect(crate in found["tagstash.elf"] and any(name.startswith(f"licences/{crate.decode()}") for name in found),
               f"{crate.decode()} is not in the image, or its licence is missing")


def no_paths() -> None:
    """Looks for directories of this machine in what is given away."""
    own = [str(place).encode() for place in (ROOT, Path.home(), *PLACES) if len(place.parts) > 1]
    own += [os.environ[name].encode() for name in ("CARGO_HOME", "RUSTUP_HOME") if os.environ.get(name)]
    for name, data in members(PLACES[0]).items():
        if name not in ("tagstash.img", "tagstash.elf"):
            continue
        # Of the compiler's library, the same in every build.
        data = re.sub(rb"/rustc/[0-9a-f]{40}/[\w./-]+", b"", data)
        strings = re.findall(rb"[\x20-\x7e]{5,}", data)
        bad = [text.decode() for text in strings if FOREIGN.search(text) or any(path in text for path in own)]
        expect(bad == [], f"{name} holds paths of this machine: {bad[:5]}")


def refusal() -> None:
    """Packs changed sources only when told to, and under another name."""
    place = PLACES[0]
    with open(place / "README.md", "a", encoding="utf-8") as file:
        file.write("\nChanged.\n")
    environment = {"CARGO_NET_OFFLINE": "true"}
    # The program alone: the image would be built again, for nothing that this test looks at.
    commit = good(["git", "describe", "--always", "--dirty"], place)
    script = [sys.executable, "boot/release/dist.py"]
    done = run(script, place, TAGSTASH_COMMIT=commit, **environment)
    expect(done.returncode == 1 and "FORCE=1" in done.stdout and commit in done.stdout, f"changed sources were packed: {done.stdout}")
    done = run(script, place, TAGSTASH_COMMIT=commit, FORCE="1", **environment)
    expect(done.returncode == 0 and "-unreproducible.tar.gz" in done.stdout, f"FORCE=1 does not help: {done.stdout}")


def licences() -> None:
    """Reads licence expressions as SPDX means them."""
    sys.path.insert(0, str(ROOT / "boot/release"))
    from dist import permitted  # pylint: disable=import-outside-toplevel

    for expression, verdict in (("MIT", True), ("MIT/Apache-2.0", True), ("GPL-3.0-only OR MIT", True), ("GPL-3.0-only", False),
                                ("MIT AND GPL-2.0-only", False), ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
                                ("(MIT OR GPL-2.0-only) AND LGPL-2.1-only", False), ("MPL-2.0", False),
                                ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", True)):
        expect(permitted(expression) == verdict, f"{expression} is taken as {'not ' if verdict else ''}permitted")
    expect(permitted("MPL-2.0", "MPL-2.0"), "a licence that was entered for a crate is not taken")


TESTS: list[tuple[str, Callable[[], None]]] = [
    ("dist: licence expressions are read as they are meant", licences),
    ("dist: the archive is made in two clones, without the network", builds),
    ("dist: both archives are the same, byte for byte", same_bytes),
    ("dist: the archive is whole, and its sums are right", whole),
    ("dist: no path of the machine that built is in the image or its symbols", no_paths),
    ("dist: changed sources are refused", refusal),
]


def main() -> int:
    """Runs the tests; returns the process's exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if run(["git", "rev-parse", "HEAD"], ROOT).returncode != 0 or not (ROOT / ".git").exists():
        print("TAP version 14\n1..1\nok 1 - dist # SKIP these sources are not a git repository, so there is nothing to clone")
        return 0
    try:
        return tap.run(TESTS)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
