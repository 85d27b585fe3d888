// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests, a file for each topic. Where a test keeps one of the promises of docs/abi.md
//! section 5, its name begins with the promise's id.

mod aborts;
mod cache;
mod claims;
mod discovery;
mod errors;
mod events;
mod fences;
mod fuzz;
mod hidden;
mod hostile;
mod interrupts;
mod keys;
mod none;
mod pools;
mod psci;
mod registers;
mod runs;
mod states;
mod storage;
mod stress;
mod verification;

pub use claims::longest;
pub use discovery::UID;
pub use hidden::print_registers;

use crate::machine::machine;
use crate::tap::Tally;

/// Runs what fits the machine.
pub fn run(tally: &mut Tally) {
    if machine().expects_hidden() {
        run_hidden(tally);
        return;
    }
    if machine().expects_storage() {
        tally.run(storage::DORMANT_TESTS);
    }
    tally.run(discovery::TESTS);
    tally.run(events::ANYWHERE);
    tally.run(psci::TESTS);
    tally.run(registers::TESTS);
    tally.run(hostile::ANYWHERE);
    if !machine().expects_storage() {
        tally.run(none::TESTS);
        return;
    }
    tally.run(errors::TESTS);
    tally.run(cache::TESTS);
    tally.run(keys::TESTS);
    tally.run(pools::TESTS);
    tally.run(runs::TESTS);
    tally.run(claims::TESTS);
    tally.run(storage::TESTS);
    tally.run(states::TESTS);
    tally.run(interrupts::TESTS);
    tally.run(verification::TESTS);
    tally.run(events::TESTS);
    tally.run(psci::WITH_STORAGE);
    tally.run(fences::TESTS);
    tally.run(aborts::TESTS);
    tally.run(hostile::TESTS);
    tally.run(fuzz::TESTS);
    tally.run(stress::TESTS);
}

/// Runs what fits a machine whose MTE is hidden: what needs no tags, and what has to be hidden.
fn run_hidden(tally: &mut Tally) {
    tally.run(discovery::TESTS);
    tally.run(psci::TESTS);
    tally.run(hidden::TESTS);
    tally.run(hostile::ANYWHERE);
    tally.run(errors::TESTS);
    tally.run(keys::TESTS);
    tally.run(pools::TESTS);
    tally.run(runs::TESTS);
    tally.run(fences::TESTS);
}
