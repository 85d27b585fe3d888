// SPDX-License-Identifier: MIT OR Apache-2.0
//! What calls on keys answered, and whether that can be explained.

/// Most keys that one history speaks of.
pub const KEYS: usize = 5;

/// The CPU that runs before and after all others.
pub const MAIN: usize = 0;

/// What a call did, as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A put, and whether the page was kept.
    Put { value: u64, kept: bool },
    /// A get, and what it found. `shared`: a hit leaves the page.
    Get { shared: bool, found: Option<u64> },
    /// A flush of a page, an object or a pool.
    Flush,
}

/// One call: who made it, on which keys (one bit each), and when it began and ended.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub cpu: usize,
    pub keys: u8,
    pub call: Call,
    pub begin: u32,
    pub end: u32,
}

impl Event {
    /// Says whether this call must take effect before `other`: it ended before the other began,
    /// and something orders the two: one CPU made both, or the threads were not yet or no longer
    /// there, or (`ordered`) the callers order their calls.
    fn precedes(&self, other: &Event, ordered: bool) -> bool {
        let related = ordered || self.cpu == other.cpu || self.cpu == MAIN || other.cpu == MAIN;
        related && self.end < other.begin
    }

    /// What is cached after this call, if it takes effect with `cached`; `None` if it cannot.
    /// A page may be evicted at any moment: a miss is always possible, and then it is gone.
    fn apply(&self, mut cached: [Option<u64>; KEYS]) -> Option<[Option<u64>; KEYS]> {
        for (key, page) in cached.iter_mut().enumerate() {
            if self.keys & 1 << key == 0 {
                continue;
            }
            *page = match self.call {
                Call::Put { value, kept: true } => Some(value),
                Call::Get { shared, found: Some(value) } => {
                    if *page != Some(value) {
                        return None;
                    }
                    page.filter(|_| shared)
                }
                Call::Put { kept: false, .. } | Call::Get { found: None, .. } | Call::Flush => None,
            };
        }
        Some(cached)
    }
}

/// Says whether each call can have taken effect at one instant between its begin and its end.
pub fn is_linearizable(events: &[Event], ordered: bool) -> bool {
    let all = (1u32 << events.len()) - 1;
    search(events, ordered, all, [None; KEYS])
}

/// `left`: one bit for each call that has not taken effect.
fn search(events: &[Event], ordered: bool, left: u32, cached: [Option<u64>; KEYS]) -> bool {
    left == 0
        || events.iter().enumerate().any(|(n, event)| {
            let is_next = left & 1 << n != 0
                && !events
                    .iter()
                    .enumerate()
                    .any(|(m, other)| left & 1 << m != 0 && other.precedes(event, ordered));
            is_next
                && event
                    .apply(cached)
                    .is_some_and(|cached| search(events, ordered, left & !(1 << n), cached))
        })
}

/// The check itself, on histories whose verdict is known.
pub mod self_test {
    use super::*;

    fn put(cpu: usize, begin: u32, end: u32, value: u64) -> Event {
        Event { cpu, keys: 1, call: Call::Put { value, kept: true }, begin, end }
    }

    fn get(cpu: usize, begin: u32, end: u32, found: Option<u64>) -> Event {
        Event { cpu, keys: 1, call: Call::Get { shared: false, found }, begin, end }
    }

    fn flush(cpu: usize, begin: u32, end: u32) -> Event {
        Event { cpu, keys: 1, call: Call::Flush, begin, end }
    }

    pub fn what_cannot_be_explained_is_refused() {
        let explained = |events: &[Event]| is_linearizable(events, true);
        assert!(explained(&[put(1, 0, 1, 5), get(1, 2, 3, Some(5)), get(1, 4, 5, None)]));
        // Got twice.
        assert!(!explained(&[put(1, 0, 1, 5), get(1, 2, 3, Some(5)), get(2, 4, 5, Some(5))]));
        // Older than the newest.
        assert!(!explained(&[put(1, 0, 1, 5), put(1, 2, 3, 6), get(2, 4, 5, Some(5))]));
        // Back after a miss.
        assert!(!explained(&[put(1, 0, 1, 5), get(2, 2, 3, None), get(1, 4, 5, Some(5))]));
        // Flushed, and an overlapping flush.
        assert!(!explained(&[put(1, 0, 1, 5), flush(2, 2, 3), get(1, 4, 5, Some(5))]));
        assert!(explained(&[put(1, 0, 2, 5), flush(2, 1, 3), get(1, 4, 5, Some(5))]));
        // Two puts at once: either, and never one after the other.
        let puts = [put(1, 0, 2, 5), put(2, 1, 3, 6)];
        for (first, second, good) in [
            (Some(5), None, true),
            (Some(6), None, true),
            (None, None, true),
            (Some(6), Some(5), false),
            (Some(5), Some(6), false),
        ] {
            let gets = [get(1, 4, 5, first), get(1, 6, 7, second)];
            assert_eq!(explained(&[puts, gets].concat()), good, "{first:?} {second:?}");
        }
        // Without an order between the callers, another CPU's put may come to light late.
        let late = [put(1, 0, 1, 5), get(2, 2, 3, None), get(2, 4, 5, Some(5))];
        assert!(!explained(&late) && is_linearizable(&late, false));
    }
}
