// SPDX-License-Identifier: MIT OR Apache-2.0
//! The real stash and ledger under the model checker: every two racing operations, chosen threes,
//! and the interleavings that shaped the protocol (`docs/architecture.md` numbers them).
//!
//! `make model` runs all of it at full depth, `make model MODEL=test` the part of `make test`,
//! `make model MODEL='run NAME'` what has this in its name, `make model MODEL=list` shows the matrix.
//!
//! | module | what it is for |
//! | --- | --- |
//! | `matrix` | the operations, the geometries, and the cases that they make |
//! | `counterexamples`, `pools`, `events`, `meta` | the other cases |
//! | `race` | a race under the model checker |
//! | `machine` | what the library runs on, and what watches it |
//! | `history` | whether answers can be explained |
//! | `runner` | cases on all CPUs, a line for each, a summary |

#[cfg(loom)]
#[path = "loom/cases.rs"]
mod cases;
#[cfg(loom)]
#[path = "loom/counterexamples.rs"]
mod counterexamples;
#[cfg(loom)]
#[path = "loom/events.rs"]
mod events;
#[cfg(loom)]
#[path = "loom/history.rs"]
mod history;
#[cfg(loom)]
#[path = "loom/machine.rs"]
mod machine;
#[cfg(loom)]
#[path = "loom/matrix.rs"]
mod matrix;
#[cfg(loom)]
#[path = "loom/meta.rs"]
mod meta;
#[cfg(loom)]
#[path = "loom/pools.rs"]
mod pools;
#[cfg(loom)]
#[path = "loom/race.rs"]
mod race;
#[cfg(loom)]
#[path = "loom/runner.rs"]
mod runner;
#[cfg(loom)]
#[path = "loom/tally.rs"]
mod tally;

#[cfg(loom)]
fn main() -> std::process::ExitCode {
    runner::main()
}

/// There is nothing to check without the checker's atomics.
#[cfg(not(loom))]
fn main() {}
