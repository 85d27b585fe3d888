#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Counts what the Linux driver costs and what it saves, on one CPU that counts instructions: tables in build/driver-costs.

Costs: tests/linux/client/tagstash_cost.c calls cleancache and stores tags while the page cache and the stash are full; what is
counted is Linux's code, the driver's and the shim's together. Beside it is what Linux's own CMA takes to give a page back, whose
area is full of page cache too. Savings: sectors read by a pass over 24 MiB of files by a program that
may have 20 MiB of page cache: without the stash, with it, and with as much page cache more as the stash has.

The exit status is 0 only if the guest ran to its end, and every case came.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import driverguest  # noqa: E402  (the guest)
import run as machine  # noqa: E402  (where things are)
import setup  # noqa: E402  (its errors)

OUT = machine.BUILD / "driver-costs"
LOG = machine.BUILD / "logs" / "driver-costs.log"
SECONDS = 1800.0
MEMORY_MIB = 256
CMA = "page taken back by CMA"
# Fewer cached pages dropped than this, of 2,000 taken, show that CMA found free ones instead.
DROPPED = 1_500
TAKEN = "tags of a page cleared, its block holds a cached page"
# Cases that some setting has to have, so that a change that loses them is seen.
NEEDED = ["null hypercall", "get that misses", "put", "get that hits", "invalidate a page that is not", "invalidate a file", TAKEN,
          "tags of a page cleared, nothing is claimed", "tags of a page cleared again", "page with tags freed", "page without tags freed", CMA]


def boot(guest: driverguest.Guest) -> str:
    """Runs the guest; returns what it printed."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with open(LOG, "wb") as sink:
        status = subprocess.run(guest.command(SECONDS), stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                                check=False).returncode
    text = LOG.read_text(errors="replace").replace("\r", "")
    if status != 0 or "# files costs complete" not in text.splitlines():
        reason = next((line for line in text.splitlines() if line.startswith(("Bail out!", "run: "))), f"status {status}")
        raise driverguest.GuestError(f"the guest did not run to its end: {reason}; see {setup.relative(LOG)}")
    return text


def tables(text: str) -> tuple[list[str], list[str]]:
    """Makes tables of what the guest said; returns their lines, and what is missing."""
    lines, missing = [], []
    sectors: dict[str, dict[str, int]] = {}
    for setting, order, count in re.findall(r"^cost: sectors (.+): (\w+) (\d+)$", text, re.M):
        sectors.setdefault(setting, {})[order] = int(count)
    lines += ["| sectors read by a pass over 49,152 | loop | skewed | uniform |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {setting} | " + " | ".join(f"{counts.get(order, -1):,}" for order in ("loop", "skewed", "uniform")) + " |"
              for setting, counts in sectors.items()]
    if len(sectors) != 3:
        missing.append("sectors")
    if "\ncost: complaints 0\n" not in text:
        missing.append("a kernel without complaints")
    if not re.search(r"^cost: calls .*: ticks_per_second: 1000000000$", text, re.M):
        missing.append("a counter that counts instructions")
    lines += ["", "| setting | case | times | least | median | most |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    seen: set[str] = set()
    cma: Optional[tuple[int, int]] = None
    for setting, case, *numbers in re.findall(r"^cost: calls (.+?): (.+): (\d+) (\d+) (\d+) (\d+)$", text, re.M):
        count, least, median, most = map(int, numbers)
        if not count:
            continue
        seen.add(case)
        lines.append(f"| {setting} | {case} | {count:,} | {least:,} | {median:,} | {most:,} |")
        if case == CMA:
            cma = median, most
        if case == TAKEN and cma:
            lines.append(f"| | *CMA's median is {cma[0] / median:.0f} x that; its most {cma[1] / most:.0f} x the most* | | | | |")
    dropped = re.search(r"^cost: cached pages dropped for CMA (\d+)$", text, re.M)
    lines += ["", f"Cached pages dropped for CMA: {dropped[1] if dropped else 'unknown'}"]
    if not dropped or int(dropped[1]) < DROPPED:
        missing.append("an area of CMA's full of page cache")
    missing += [case for case in NEEDED if case not in seen]
    return lines, missing


def main() -> int:
    """Counts; returns the process's exit status."""
    summary, *rest = __doc__.split("\n\n")
    argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest), formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    layout = machine.LAYOUTS["one"](machine.RAM_BASE, MEMORY_MIB << 20)
    stash = sum(region.storage_length for region in layout.regions) >> 10
    try:
        kernel = driverguest.find("5.10", build=True)
        with driverguest.Guest(kernel, "costs", {"stash": str(stash)}, 1, MEMORY_MIB, icount=True) as guest:
            print("driver-costs: one CPU that counts instructions; minutes", flush=True)
            text = boot(guest)
    except (setup.SetupError, driverguest.GuestError, OSError) as why:
        print(f"driver-costs: {why}", file=sys.stderr)
        return setup.NotDownloaded.status if isinstance(why, setup.NotDownloaded) else 1
    lines, missing = tables(text)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "costs.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    for name in missing:
        print(f"driver-costs: MISSING: {name}", flush=True)
    print(f"driver-costs: {setup.relative(OUT / 'costs.md')}")
    return 1 if missing else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("driver-costs: interrupted", file=sys.stderr)
        sys.exit(130)
