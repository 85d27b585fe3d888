// SPDX-License-Identifier: MIT OR Apache-2.0
//! What EL1 must not reach: tag storage and the shim, by loads, stores, tag stores and jumps.

use crate::cpu;
use crate::exceptions::{self, Abort};
use crate::host;
use crate::machine::machine;
use crate::ranges::PAGE;
use crate::stash;
use crate::tap::{Outcome, Test, check, fail, note, same};

/// Tests with tag storage.
pub const TESTS: &[Test] = &[
    ("P7 loads and stores to no-map memory are external aborts", loads_and_stores),
    ("P7 jumps to no-map memory are external aborts", jumps),
    ("P7 a store to tag storage changes nothing", nothing_changes),
];

/// Addresses at the ends and in the middle of every reservation.
fn addresses() -> impl Iterator<Item = u64> {
    machine().no_map.all().iter().flat_map(|range| {
        [range.start, range.start + range.length() / 2 / PAGE * PAGE + 64, range.end - 8]
    })
}

fn is_external(abort: Option<Abort>, address: u64, what: &str) -> Outcome {
    let Some(abort) = abort else { fail!("{what} {address:#x} does not abort") };
    check!(
        abort.is_external_data() || abort.is_external_fetch(),
        "{what} {address:#x}: ESR {:#x} is no synchronous external abort",
        abort.syndrome
    );
    // FnV: no address is told.
    if abort.syndrome & 1 << 10 == 0 {
        same!(abort.address, address, "{what} {address:#x}: FAR");
    }
    Ok(())
}

fn loads_and_stores() -> Outcome {
    // A probe of own memory does not abort: the probe itself works.
    let own = crate::arena::take(1).address();
    // SAFETY: own memory.
    let abort = exceptions::expect(|| unsafe { cpu::store(own, cpu::load(own)) });
    check!(abort.is_none(), "a load of own memory aborts");
    let mut probes = 0;
    for lent in [false, true] {
        if lent {
            stash::activate(0)?
        } else {
            stash::deactivate()?
        }
        for address in addresses() {
            // SAFETY: if this does not abort the test fails, and nothing after it means much.
            let abort = exceptions::expect(|| unsafe {
                cpu::load(address);
            });
            is_external(abort, address, "a load from")?;
            // SAFETY: as above.
            let abort = exceptions::expect(|| unsafe { cpu::store(address, 0x5a5a) });
            is_external(abort, address, "a store to")?;
            probes += 2;
        }
    }
    note!("{probes} loads and stores aborted");
    Ok(())
}

fn jumps() -> Outcome {
    for address in addresses() {
        let address = address & !3;
        // SAFETY: it must abort; what would run otherwise is unknown, which is the point.
        let abort = exceptions::expect(|| unsafe { cpu::jump(address) });
        is_external(abort, address, "a jump to")?;
    }
    Ok(())
}

fn nothing_changes() -> Outcome {
    stash::deactivate()?;
    for region in machine().regions.all() {
        for address in [region.storage.start, region.storage.end - 8] {
            let (mut before, mut after) = ([0; 8], [0; 8]);
            host::read(address, &mut before);
            let other = !u64::from_le_bytes(before);
            // SAFETY: it must abort; the page is nobody's while nothing is lent.
            let abort = exceptions::expect(|| unsafe { cpu::store(address, other) });
            host::read(address, &mut after);
            check!(before == after, "a store has changed storage at {address:#x}");
            is_external(abort, address, "a store to")?;
        }
    }
    stash::activate(0)
}
