// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that needs the CPU.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`head`] | the Image header, the entry of the first and of further CPUs, relocation, MMU on |
//! | [`refusal`] | what is said to a loader that entered at the wrong exception level |
//! | [`layout`] | where the parts of the image are |
//! | [`console`] | the serial port, as a sink of `log` |
//! | [`heap`], [`pages`] | memory for what is built at boot; pages for translation tables |
//! | [`mmu`], [`stage2`] | EL2's own map, and the guest's |
//! | [`vectors`], [`exception`], [`mod@panic`] | every way into EL2, and what is done about each |
//! | [`calls`], [`smc`], [`psci`] | the guest's HVC and SMC, and who answers them |
//! | [`inject`], [`guest`] | exceptions given back to EL1, EL1's state at its entry |
//! | [`cpu_controls`] | each EL2 trap control, set on purpose |
//! | [`hide`] | MTE hidden from the guest |
//! | [`registers`], [`features`] | System registers, and what the CPU has |
//! | [`cache`], [`copy`] | cache maintenance, copies that survive an external abort |
//! | [`percpu`] | stacks, CPU numbers |
//! | [`slot`] | the image's place for a device-tree overlay |

pub mod cache;
pub mod calls;
pub mod console;
pub mod copy;
pub mod cpu_controls;
pub mod el1_state;
pub mod exception;
pub mod features;
pub mod guest;
pub mod head;
pub mod heap;
pub mod hide;
pub mod inject;
pub mod layout;
pub mod mmu;
pub mod pages;
pub mod panic;
pub mod percpu;
pub mod psci;
pub mod refusal;
pub mod registers;
pub mod slot;
pub mod smc;
pub mod stage2;
pub mod vectors;
