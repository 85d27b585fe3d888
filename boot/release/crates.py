#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Knows the crates that the bare-metal programs are built from.

Run by the Makefile, it writes a cargo configuration that gives every source path in the image a name that is the same on all
machines: `src/main.rs` for the project's own, `fdt-0.1.5/src/lib.rs` for a crate's, `/rustc/HASH/library/...` for the compiler's
library. It also keeps the developer's directories out of what is given away.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Optional

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "aarch64-unknown-none-softfloat"
PROGRAMS = ("tagstash", "harness")


class CratesError(Exception):
    """Why the crates cannot be listed."""


@dataclass(frozen=True)
class Crate:
    """One crate."""

    name: str
    version: str
    directory: Path
    # SPDX expression, as the crate's manifest has it.
    licence: Optional[str]
    licence_file: Optional[str]
    repository: Optional[str]
    # Runs in the compiler, and is not in the image.
    build_time: bool

    @property
    def label(self) -> str:
        """Names the crate with its version."""
        return f"{self.name}-{self.version}"


def output(command: list[str]) -> str:
    """Runs a command in the project's directory; returns what it printed."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              text=True, check=False)
    except OSError as error:
        raise CratesError(f"{command[0]} does not start: {error.strerror}") from None
    if done.returncode != 0:
        raise CratesError(f"`{' '.join(command)}` ended with status {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def crates(programs: Iterable[str]) -> list[Crate]:
    """Lists the programs and all they depend on for the bare-metal target, by name."""
    cargo = os.environ.get("CARGO", "cargo")
    found = json.loads(output([cargo, "metadata", "--format-version", "1", "--filter-platform", TARGET]))
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    listed: dict[str, bool] = {}

    def walk(identity: str, build_time: bool) -> None:
        kinds = [kind for target in packages[identity]["targets"] for kind in target["kind"]]
        build_time |= "proc-macro" in kinds
        if listed.get(identity, True) <= build_time and identity in listed:
            return
        listed[identity] = build_time
        for dependency in nodes[identity]["deps"]:
            wanted = {kind["kind"] for kind in dependency["dep_kinds"]}
            if None in wanted or "build" in wanted:
                walk(dependency["pkg"], build_time or None not in wanted)

    for program in programs:
        walk(next(identity for identity in found["workspace_members"] if packages[identity]["name"] == program), False)
    chosen = [(packages[identity], build_time) for identity, build_time in listed.items()]
    return sorted((Crate(package["name"], package["version"], Path(package["manifest_path"]).parent, package["license"],
                         package["license_file"], package["repository"], build_time) for package, build_time in chosen),
                  key=lambda crate: (crate.name, crate.version))


def compiler() -> tuple[str, Path]:
    """Returns the compiler's commit and where its library's source is, if it is installed."""
    rustc = os.environ.get("RUSTC", "rustc")
    facts = dict(line.split(": ", 1) for line in output([rustc, "-vV"]).splitlines() if ": " in line)
    library = Path(output([rustc, "--print", "sysroot"]).strip()) / "lib" / "rustlib" / "src" / "rust"
    return facts.get("commit-hash", facts["release"]), library


def remaps() -> list[str]:
    """Lists the compiler's options that give paths their names; of two that apply the later one counts."""
    commit, library = compiler()
    pairs = [(str(library), f"/rustc/{commit}")]
    if library.exists() and library.resolve() != library:
        pairs.append((str(library.resolve()), f"/rustc/{commit}"))
    pairs += [(str(crate.directory), crate.label) for crate in crates(PROGRAMS) if ROOT not in [crate.directory, *crate.directory.parents]]
    pairs.append((str(ROOT), "."))
    return [f"--remap-path-prefix={before}={after}" for before, after in pairs]


def main() -> int:
    """Writes the cargo configuration to the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="the configuration to write")
    try:
        # TOML, whose basic strings are those of JSON.
        parser.parse_args().file.write_text(f"[target.{TARGET}]\nrustflags = {json.dumps(remaps(), indent=4)}\n")
    except (CratesError, OSError) as error:
        print(f"crates: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
