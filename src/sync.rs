// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomics: core's, or those of a checker. The only place that chooses.
//!
//! Under shuttle, whose schedules are random, they are core's with a place to switch threads
//! before each access.
//!
//! loom, the model checker, remembers one last access of an object, so that a thread's own load
//! can hide another thread's from its search. Under loom every access is therefore followed by a relaxed store
//! to one shared word, which makes every two accesses dependent, and so every order of them
//! is explored. It is a store, and nobody loads it, so that it orders nothing: a missing
//! ordering still shows.
//!
//! A load may see any value that the memory model lets it see, so the number of executions doubles
//! with each load of a word that was just written. Where that is too much, a test asks for
//! sequential consistency: interleavings are explored then, and orderings are not.
//!
//! Under `cfg(traced)` every access tells a hook of its thread before and after it is made, so
//! that a test can compare the accesses with those of a model, and hold threads up between any
//! two (`tests/protocol`).

#[cfg(not(any(loom, shuttle, traced)))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A statistics counter: always core's, because no decision is ever made on one.
pub use core::sync::atomic::AtomicU64 as Counter;

#[cfg(loom)]
pub use checked::{AtomicU32, AtomicU64, fence, set_racing, set_sequential, switch_point};
#[cfg(any(loom, traced))]
pub use core::sync::atomic::Ordering;
#[cfg(traced)]
pub use traced::{AtomicU32, AtomicU64, Event, Kind, fence, set_hook};

#[cfg(shuttle)]
pub use scheduled::{AtomicU32, AtomicU64, Ordering, fence, set_racing, switch_point};

#[cfg(shuttle)]
mod scheduled;

#[cfg(loom)]
mod checked;

#[cfg(traced)]
mod traced;
