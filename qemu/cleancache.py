# SPDX-License-Identifier: MIT OR Apache-2.0
"""The kernel with cleancache: Linux 5.10, its Image and the tree to build modules for it; or the reason why there is none.

No distribution has such a kernel ready. Where the environment variable CLEANCACHE_KERNEL names a directory that has, that one is
taken: Image or Image.xz, and kdev.tar.xz, which holds the tree; the same in its subdirectory `debug` for the kernel with the
kernel's own checks of locks and of sleeping where that is not allowed. Elsewhere it is built here, once (kernel_build.py).

    kernel = cleancache.find("5.10")        # or "5.10-debug"; raises setup.SetupError with the reason
    kernel.image, kernel.tree, kernel.release
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import kernel_build
import setup
import trees

VARIABLE = setup.CLEANCACHE_VARIABLE
# The names of the two kernels, and the subdirectory of CLEANCACHE_KERNEL that each is in.
NAMES = {"5.10": "", "5.10-debug": "debug"}


def find(name: str, build: bool = False, jobs: int = 0) -> trees.Kernel:
    """Finds the kernel with cleancache, as it is or with the kernel's own checks.

    What is packed is unpacked, once; what has to be built is built only if `build` says so, because it takes minutes. Raises
    NotDownloaded where there is no such kernel, SetupError where it cannot be used.
    """
    given = os.environ.get(VARIABLE, "")
    if given:
        return unpacked(name, Path(given).resolve() / NAMES[name])
    if build:
        kernel_build.build(name, jobs)
    place = kernel_build.place(name)
    if not kernel_build.is_built(name):
        what = "cleancache-debug" if NAMES[name] else "cleancache-kernel"
        raise setup.NotDownloaded(f"the kernel {name} with cleancache has not been built, or not by its configuration as it is now. "
                                  f"What to do: `python3 qemu/setup.py --only {what}` (ten minutes), or name a directory that has "
                                  f"one in the environment variable {VARIABLE}")
    return trees.check(name, place / "Image", place / "kdev", setup.relative(place))


def unpacked(name: str, directory: Path) -> trees.Kernel:
    """Unpacks the kernel of the directory that the environment names, unless that has been done."""
    remedy = f"What to do: correct the environment variable {VARIABLE}"
    packed_image = next((file for file in (directory / "Image.xz", directory / "Image") if file.is_file()), None)
    packed_tree = directory / "kdev.tar.xz"
    if packed_image is None:
        raise setup.NotDownloaded(f"{directory} has neither Image.xz nor Image. {remedy}")
    if not packed_tree.is_file():
        raise setup.NotDownloaded(f"{directory} has no kdev.tar.xz, the tree to build modules in. {remedy}")
    place = trees.TREES / f"{name}-given"
    stamp = f"{packed_image} {setup.stamp(packed_image)} {packed_tree} {setup.stamp(packed_tree)}\n"
    if not (place / "stamp").is_file() or (place / "stamp").read_text() != stamp:
        setup.say("kernel", f"{name}: unpacking {directory}")
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            setup.write_whole(partial / "Image", setup.plain_image(packed_image.read_bytes()))
            with tarfile.open(packed_tree, "r:xz") as archive:
                # Newer versions of Python want to know how far the archive is trusted.
                archive.extraction_filter = getattr(tarfile, "tar_filter", None)
                archive.extractall(partial)
        except (tarfile.TarError, EOFError, setup.lzma.LZMAError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise setup.SetupError(f"{packed_tree} cannot be unpacked: {error}. {remedy}") from None
        (partial / "stamp").write_text(stamp)
        replace(partial, place)
    return trees.check(name, place / "Image", place / "kdev", str(directory))


def replace(partial: Path, place: Path) -> None:
    """Puts a finished directory in place of an older one; of two processes that do so at once, the first is kept."""
    shutil.rmtree(place, ignore_errors=True)
    try:
        partial.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        shutil.rmtree(partial, ignore_errors=True)
