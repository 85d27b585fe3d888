// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes QEMU's MTE tag memory and a carve-out of guest RAM one memory.
//!
//! On silicon whose tag storage is carved out of DRAM, tags *are* bytes of RAM. QEMU keeps them
//! apart: one anonymous mapping of a 32nd of RAM. This library is preloaded into QEMU, sees its
//! calls of `mmap`, and puts pieces of the file behind guest RAM over that mapping. After that a
//! tag store changes the storage's bytes and the other way round.
//!
//! It is steered by the environment: `TAGALIAS_FILE` is the path of the file behind guest RAM
//! (QEMU's `memory-backend-file` with `share=on`), `TAGALIAS_RAM` its size in bytes,
//! `TAGALIAS_PIECES` the list that [`pieces::parse`] reads. Without `TAGALIAS_PIECES` nothing
//! happens.
//!
//! What it does is said on standard error, in lines that begin with `tagalias:`. A bad setting ends
//! QEMU with status 2 before it starts. A run in which the tag memory never showed says so when it
//! ends.

#![deny(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks, unsafe_op_in_unsafe_fn)]
#![cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "the hooks are Linux's"))]

mod pieces;

// Not in the unit tests' own process: that one keeps the C library's mmap.
#[cfg(all(target_os = "linux", not(test)))]
mod hook;
