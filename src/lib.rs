// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tagstash, the portable part: everything that does not need an Arm CPU.
//!
//! Idle MTE tag storage becomes a page pool for the one guest kernel above the shim, and
//! goes back to tags the moment the guest asks. The parts, from the bottom up:
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`addr`] | addresses, ranges and pages that cannot be mixed up |
//! | [`translation`] | tables of the identity maps that EL2 and the guest see |
//! | [`walk`] | the level at which a walk of the guest's own tables ended |
//! | [`sync`] | atomics: core's, or the model checker's |
//! | [`ram`] | what is guest RAM, and the check of what the guest says |
//! | [`space`], [`payload`] | free places in RAM at boot, and the guest's kernel |
//! | [`appended`] | what was packed into one file with the image: kernel, ramdisk |
//! | [`psci`] | what becomes of the guest's PSCI calls |
//! | [`platform`] | what the portable part asks of the machine: copies, cache maintenance |
//! | [`tags`] | device tree -> regions, address arithmetic, the ledger of claims |
//! | [`stash`] | frames, keys, the table that finds and evicts, epochs that flush |
//! | [`events`] | what happened lately, for the guest to ask |
//! | [`hypercall`] | the ABI, and its dispatch: decode, validate, call, encode |
//! | [`dtb`] | what is read from the device tree, and the copy that the guest sees |
//! | [`serial`] | the transmitter of 8250-like serial ports |
//! | [`options`] | the words in the boot arguments that are for the shim |
//! | [`sysreg`] | trapped reads of System registers, and what MTE says of itself there |
//!
//! # Design principles
//!
//! * **A claim never fails and never waits for the guest.** Whatever the stash does, it does
//!   in a way that lets a claim take the frame away at any instant.
//! * **The frames are the table.** No list, no free list, no index apart from the frames' own
//!   state words: nothing can dangle, and a lost race is a miss.
//! * **All zero is safe.** Zeroed metadata is an empty, dormant stash.
//! * **Validate once, at the edge**, into a type that cannot be wrong. What the guest or the
//!   firmware supplied can be refused, and can never panic the shim.
//! * **Identity is never an argument.** There is one guest; what it says names its own things.
//!
//! The firmware binary (`main.rs`, `el2/`) gives this library a CPU; host tests give it a
//! simulated memory whose tag storage really aliases; the model checker gives it schedules.

#![cfg_attr(not(any(test, loom, shuttle)), no_std)]

extern crate alloc;

pub mod addr;
pub mod appended;
pub mod dtb;
pub mod events;
pub mod hypercall;
pub mod loaded;
pub mod options;
pub mod payload;
pub mod platform;
pub mod psci;
pub mod ram;
pub mod serial;
pub mod space;
pub mod stash;
pub mod sync;
pub mod sysreg;
pub mod tags;
pub mod translation;
pub mod walk;
