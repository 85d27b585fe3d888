#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Packs what `make image` built, with documents and licences, into build/dist/tagstash-VERSION.tar.gz.

The archive's bytes depend on the commit and the compiler only: sorted names, no owner, one time stamp (SOURCE_DATE_EPOCH, or the
commit's date). Changed or unknown sources are refused, because nobody could build that archive again; FORCE=1 packs them under
a name that says so.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Optional

from crates import ROOT, Crate, CratesError, compiler, crates, output

BUILD = ROOT / "build"
ELF = ROOT / "target/aarch64-unknown-none-softfloat/release/tagstash"
# What is given away beside the image: patterns, from the project's root.
DOCUMENTS = ("README.md", "CHANGELOG.md", "LICENSE-*", "docs/*.md", "boot/*.cmd", "boot/*.its", "boot/*.dtso", "boot/*.py", "boot/linux/*.[ch]",
             "boot/linux/*.config", "boot/linux/Kbuild", "boot/linux/Makefile")
LICENCE_NAMES = re.compile(r"(?i)^(licen[cs]e|copying|copyright|notice|unlicense)([-_.].*)?$")
# Licences that ask for their text and notice to go along, and nothing else.
PERMISSIVE = {"MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"}
# Crates under a licence that asks for more, which is done here: MPL-2.0 asks to say where the source of the unchanged crate is.
WITH_SOURCE = {"fdt": "MPL-2.0"}


class DistError(Exception):
    """Why there is no archive, and what to do."""


def permitted(expression: str, extra: Optional[str] = None) -> bool:
    """Says whether an SPDX expression leaves a choice of permissive licences only (AND binds closer than OR)."""
    # Old manifests write a slash for OR.
    text = expression.replace("/", " OR ").strip()
    group = re.search(r"\(([^()]*)\)", text)
    if group:
        inner = "MIT" if permitted(group[1], extra) else "none"
        return permitted(text[:group.start()] + inner + text[group.end():], extra)
    return any(all(term.strip() in PERMISSIVE or term.strip() == extra for term in re.split(r"\bAND\b", choice))
               for choice in re.split(r"\bOR\b", text))


def licence_texts(crate: Crate) -> list[Path]:
    """Finds a crate's licence files; an expression without a text, or one that is not permissive, is refused."""
    if not crate.licence:
        raise DistError(f"crate {crate.label} names no licence: ask its authors, or do without it")
    if not permitted(crate.licence, WITH_SOURCE.get(crate.name)):
        raise DistError(f"crate {crate.label} is under {crate.licence}, which is not a permissive licence: do without it, or meet "
                        f"its terms and enter it in boot/release/dist.py")
    found = sorted(file for file in crate.directory.iterdir() if file.is_file() and LICENCE_NAMES.match(file.name))
    if crate.licence_file and crate.directory / crate.licence_file not in found:
        found.append(crate.directory / crate.licence_file)
    if not found:
        raise DistError(f"crate {crate.label} ({crate.licence}) carries no licence text: its terms cannot be met")
    return found


def third_parties() -> dict[str, bytes]:
    """Collects the licences of what is linked into the image."""
    files: dict[str, bytes] = {}
    rows = ["What is linked into the Tagstash image besides the project itself, with the licence of each.", ""]
    for crate in crates(["tagstash"]):
        if crate.build_time or crate.directory == ROOT:
            continue
        row = f"{crate.name} {crate.version}: {crate.licence}"
        if crate.name in WITH_SOURCE:
            row += f" (unchanged; its source: {crate.repository}, version {crate.version})"
        rows.append(row)
        for file in licence_texts(crate):
            files[f"licences/{crate.label}/{file.name}"] = file.read_bytes()
    commit, _ = compiler()
    rows += [f"Rust's core, alloc and compiler_builtins (compiler commit {commit}): (MIT OR Apache-2.0), in parts Apache-2.0 WITH "
             f"LLVM-exception; copyright the Rust project's contributors, texts as in LICENSE-MIT and LICENSE-APACHE", ""]
    files["licences/THIRD-PARTY.txt"] = "\n".join(rows).encode()
    return files


def state(commit: str, force: bool) -> bool:
    """Says whether the sources are exactly a commit's; refuses if they are not, unless forced."""
    why = ""
    if commit == "unknown":
        why = "the sources are not in a git repository, so the image cannot name its commit"
    elif commit.endswith("-dirty"):
        why = f"the sources are changed ({commit})"
    else:
        extra = output(["git", "ls-files", "--others", "--exclude-standard", "--", *DOCUMENTS]).split()
        if extra:
            why = f"{', '.join(extra)} would be packed and is in no commit"
    if why and not force:
        raise DistError(f"{why}, and nobody could make this archive again: commit first, or pack it anyway with FORCE=1")
    return not why


def timestamp(commit: str) -> int:
    """Returns the time that all files get, in seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        try:
            return int(given)
        except ValueError:
            raise DistError(f"SOURCE_DATE_EPOCH is '{given}': it has to be a number of seconds") from None
    if commit == "unknown":
        raise DistError("the sources have no commit whose date the archive could take: set SOURCE_DATE_EPOCH (seconds since 1970)")
    return int(output(["git", "log", "-1", "--format=%ct"]))


def contents() -> dict[str, bytes]:
    """Collects what goes into the archive, by name."""
    files: dict[str, bytes] = {}
    for path, name in ((BUILD / "tagstash.img", "tagstash.img"), (ELF, "tagstash.elf")):
        try:
            files[name] = path.read_bytes()
        except OSError as error:
            raise DistError(f"{path}: {error.strerror}: `make dist` builds it first") from None
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    files.update(third_parties())
    files["SHA256SUMS"] = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()
    return files


def pack(top: str, files: dict[str, bytes], when: int) -> bytes:
    """Writes the archive: sorted, owned by nobody in particular, with one time stamp."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=when, compresslevel=9) as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in sorted(files.items()):
                entry = tarfile.TarInfo(f"{top}/{name}")
                entry.size, entry.mtime, entry.mode = len(data), when, 0o644
                archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def main() -> int:
    """Makes the archive; returns the process's exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    commit = os.environ.get("TAGSTASH_COMMIT", "unknown")
    try:
        clean = state(commit, os.environ.get("FORCE", "") not in ("", "0"))
        version = next(crate.version for crate in crates(["tagstash"]) if crate.directory == ROOT)
        top = f"tagstash-{version}" + ("" if clean else "-unreproducible")
        data = pack(top, contents(), timestamp(commit))
        place = BUILD / "dist" / f"{top}.tar.gz"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        print(f"dist: {place.relative_to(ROOT)} ({commit}), sha256 {hashlib.sha256(data).hexdigest()}")
    except (DistError, CratesError) as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    except (OSError, subprocess.SubprocessError) as error:
        print(f"dist: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
