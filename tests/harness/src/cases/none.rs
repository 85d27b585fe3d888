// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine without usable tag storage: nothing to lend, nothing to claim, and tags as usual.

use crate::abi::{self, Answer, function, status};
use crate::machine::machine;
use crate::tap::{Outcome, Stop, Test, check, same};
use crate::{arena, cpu, tags};

/// Tests for a machine without tag storage.
pub const TESTS: &[Test] = &[
    ("P9 without storage there is NO_REUSE", no_reuse),
    ("P4 without storage every page is claimed at once", nothing_to_claim),
    ("P8 tags work as without the shim", tags_work),
];

fn no_reuse() -> Outcome {
    for (name, answer) in [
        ("POOL_CREATE", abi::create_private(12)),
        ("POOL_CREATE of a shared pool", abi::create_shared(16, [1, 2])),
        ("ACTIVATE", abi::activate(0, 0)),
        ("ACTIVATE with verification", abi::activate(abi::VERIFY, 0)),
    ] {
        check!(answer == Answer::only(status::NO_REUSE), "{name} answers {answer:x?}");
    }
    let state = abi::state();
    check!(state == Answer::only(0), "STATE answers {state:x?}");
    for (name, answer) in [("REGION", abi::region(0)), ("CENSUS", abi::census(0, 0, 1))] {
        check!(
            answer == Answer::only(status::INVALID_PARAMETER),
            "{name} of region 0 answers {answer:x?}"
        );
    }
    let answer = abi::deactivate(0);
    check!(answer == Answer::only(0), "DEACTIVATE answers {answer:x?}");
    let page = arena::take(1);
    let key = abi::Key::new(0, 1, 2);
    for (name, answer) in [
        ("PUT", abi::put(key, page.address(), 1)),
        ("GET", abi::get(key, page.address(), 1)),
        ("FLUSH_PAGE", abi::flush_page(key, 1)),
        ("FLUSH_OBJECT", abi::flush_object(0, [1, 0, 0])),
        ("FLUSH_POOL", abi::flush_pool(0)),
        ("POOL_DESTROY", abi::destroy(0)),
    ] {
        check!(answer == Answer::only(status::NO_SUCH_POOL), "{name} answers {answer:x?}");
    }
    Ok(())
}

fn nothing_to_claim() -> Outcome {
    let page = arena::take(4);
    for (name, function) in [("RECLAIM", function::RECLAIM), ("RELEASE", function::RELEASE)] {
        let answer = abi::hvc(function, &[page.address(), 4]);
        check!(answer == Answer::of(0, 4, 0, 0), "{name} answers {answer:x?}");
        let answer = abi::hvc(function, &[page.address() + 1, 4]);
        same!(answer.status, status::INVALID_ADDRESS, "{name} of a misaligned address");
        let answer = abi::hvc(function, &[page.address(), 0]);
        same!(answer.status, status::INVALID_PARAMETER, "{name} of no page");
    }
    let answer = abi::query(page.address());
    check!(answer == Answer::only(0), "QUERY answers {answer:x?}");
    Ok(())
}

fn tags_work() -> Outcome {
    if !cpu::has_tag_memory() {
        return Err(Stop::Skipped("the CPU has no tag memory"));
    }
    let pages = arena::take(64);
    check!(machine().is_ram(crate::ranges::Range::of(pages.address(), 64 * 4096)), "not RAM");
    for page in 0..64 {
        let store = if page % 2 == 0 { tags::Store::Stg } else { tags::Store::Stgm };
        tags::write(pages.part(page, 1).address(), 9, store);
    }
    for page in 0..64 {
        tags::verify(pages.part(page, 1).address(), 9)?;
    }
    Ok(())
}
