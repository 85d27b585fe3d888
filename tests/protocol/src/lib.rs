// SPDX-License-Identifier: MIT OR Apache-2.0
//! An explicit-state model of the frame protocol.
//!
//! [`step`] has the steps of the stash and the ledger as the code takes them, one access to
//! shared memory each, sequentially consistent. [`search`] goes through every interleaving of
//! every choice of calls that a [`config`] allows, breadth first, so that the first trace it
//! finds is a shortest one. [`monitor`] asks of every history whether calls took effect at one
//! instant each; ghosts in the state watch tags, dirty lines and waits. [`mutant`] breaks the
//! rules one by one, to show that the model would notice.
//!
//! `tests/in_step.rs` drives the model and the real code with the same interleavings and
//! compares every access, so that the model cannot become a model of something else.

pub mod config;
pub mod monitor;
pub mod mutant;
pub mod search;
pub mod state;
pub mod step;
