// SPDX-License-Identifier: MIT OR Apache-2.0
//! What calls on one key answered, and whether each can have taken effect at one instant between
//! its begin and its end.
//!
//! A cache of one page that may lose it at any instant, and values that are put once each: so the
//! question has an exact answer in `n log n` steps, for histories of any length (Gibbons and Korach,
//! *Testing shared memories*, 1997). A value's put and the gets that hit it are a *cluster*. In
//! whatever order the calls take effect, nothing else of the key comes between the calls of a
//! cluster: every other call ends the page. A call that belongs to no other (a miss, a flush, a put
//! that was refused, or never found) is a cluster of its own.
//!
//! * If all calls of a cluster overlap, it can take effect at one instant, anywhere between the last
//!   begin and the first end.
//! * If not, it takes up all the time from its first end to its last begin.
//!
//! The history is explained exactly if no two of the latter overlap, and none of the former lies
//! within one of the latter.
//!
//! Keys are looked at one by one, which is enough for calls on one key. That a flush of an object
//! or pool takes effect on all its keys at the *same* instant is not looked at.

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A put that was kept.
    Kept(u64),
    /// A put that was refused.
    Refused,
    /// A get that hit; `shared`: it leaves the page.
    Hit { value: u64, shared: bool },
    /// A get that missed.
    Miss,
    /// A flush of the page, its object or its pool, or the end of the pool.
    Flush,
}

/// One call on one key: what it came to, and when. Times are unique.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub call: Call,
    pub begin: u64,
    pub end: u64,
}

/// Calls that nothing may come between.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    /// Of its calls, the first to end and the last to begin.
    first_end: Event,
    last_begin: Event,
}

impl Cluster {
    fn of(event: Event) -> Cluster {
        Cluster { first_end: event, last_begin: event }
    }

    fn add(&mut self, event: Event) {
        if event.end < self.first_end.end {
            self.first_end = event;
        }
        if event.begin > self.last_begin.begin {
            self.last_begin = event;
        }
    }

    /// The time that it takes up, if it cannot take effect at one instant.
    fn span(&self) -> Option<(u64, u64)> {
        let (from, to) = (self.first_end.end, self.last_begin.begin);
        (from < to).then_some((from, to))
    }
}

/// Looks for what cannot be explained in the calls of one key, in any order.
///
/// # Errors
///
/// The calls that contradict each other, in words.
pub fn explain(events: &[Event]) -> Result<(), String> {
    let mut puts = std::collections::HashMap::new();
    let mut clusters = vec![];
    for &event in events {
        assert!(event.begin < event.end, "{event:?}");
        match event.call {
            Call::Kept(value) => {
                let twice = puts.insert(value, (event, Cluster::of(event), false));
                assert!(twice.is_none(), "value {value} was put twice by the test");
            }
            Call::Hit { .. } => {}
            Call::Refused | Call::Miss | Call::Flush => clusters.push(Cluster::of(event)),
        }
    }
    for &event in events {
        let Call::Hit { value, shared } = event.call else {
            continue;
        };
        let Some((put, cluster, taken)) = puts.get_mut(&value) else {
            return Err(format!("got what no put of this key kept: {event:?}"));
        };
        if event.end < put.begin {
            return Err(format!("got before it was put: {event:?}, {put:?}"));
        }
        if *taken && !shared {
            return Err(format!("got twice of a private pool: {event:?}, {put:?}"));
        }
        *taken = true;
        cluster.add(event);
    }
    clusters.extend(puts.into_values().map(|(_, cluster, _)| cluster));
    let mut spans: Vec<(u64, u64, Cluster)> =
        clusters.iter().filter_map(|c| c.span().map(|(from, to)| (from, to, *c))).collect();
    spans.sort_unstable_by_key(|&(from, ..)| from);
    for pair in spans.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(format!("two pages at one time: {:?}, {:?}", pair[0].2, pair[1].2));
        }
    }
    for cluster in clusters.iter().filter(|cluster| cluster.span().is_none()) {
        // The only instants that it can have, and the one span that begins before all of them.
        let (from, to) = (cluster.last_begin.begin, cluster.first_end.end);
        let before = spans.partition_point(|&(start, ..)| start < from);
        if before > 0 && to < spans[before - 1].1 {
            let span = spans[before - 1].2;
            return Err(format!("in the midst of a page's stay: {cluster:?}, {span:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(begin: u64, end: u64, call: Call) -> Event {
        Event { call, begin, end }
    }

    fn put(begin: u64, end: u64, value: u64) -> Event {
        event(begin, end, Call::Kept(value))
    }

    fn get(begin: u64, end: u64, value: u64) -> Event {
        event(begin, end, Call::Hit { value, shared: false })
    }

    fn look(begin: u64, end: u64, value: u64) -> Event {
        event(begin, end, Call::Hit { value, shared: true })
    }

    #[test]
    fn what_cannot_be_explained_is_refused() {
        let explained = |events: &[Event]| explain(events).is_ok();
        let (miss, flush, refused) = (Call::Miss, Call::Flush, Call::Refused);
        assert!(explained(&[put(0, 1, 5), get(2, 3, 5), event(4, 5, miss)]));
        // Got twice, of a private and of a shared pool.
        assert!(!explained(&[put(0, 1, 5), get(2, 3, 5), get(4, 5, 5)]));
        assert!(!explained(&[put(0, 1, 5), get(2, 4, 5), get(3, 5, 5)]));
        assert!(explained(&[put(0, 1, 5), look(2, 3, 5), look(4, 5, 5)]));
        // Older than the newest; what nobody put; before it was put.
        assert!(!explained(&[put(0, 1, 5), put(2, 3, 6), get(4, 5, 5)]));
        assert!(!explained(&[put(0, 1, 5), get(2, 3, 6)]));
        assert!(!explained(&[get(0, 1, 5), put(2, 3, 5)]));
        // Back after a miss, a flush, a refused put: unless they overlap.
        for call in [miss, flush, refused] {
            assert!(!explained(&[put(0, 1, 5), event(2, 3, call), get(4, 5, 5)]));
            assert!(!explained(&[put(0, 1, 5), event(2, 3, call), look(4, 5, 5)]));
            assert!(explained(&[put(0, 2, 5), event(1, 3, call), get(4, 5, 5)]));
            assert!(explained(&[put(0, 1, 5), event(2, 4, call), get(3, 5, 5)]));
            assert!(!explained(&[put(0, 1, 5), look(2, 3, 5), event(4, 5, call), look(6, 7, 5)]));
        }
        // Two puts at once: either, and never one after the other.
        let puts = [put(0, 2, 5), put(1, 3, 6)];
        for value in [5, 6] {
            assert!(explained(&[puts[0], puts[1], get(4, 5, value)]));
            assert!(!explained(&[puts[0], puts[1], get(4, 5, value), get(6, 7, 11 - value)]));
        }
        // A put and its get at once, in the midst of another page's stay.
        assert!(!explained(&[put(0, 1, 5), put(2, 4, 6), get(3, 5, 6), get(6, 7, 5)]));
        assert!(explained(&[put(0, 1, 5), put(2, 5, 6), get(4, 7, 6), get(3, 6, 5)]));
    }

    /// The same verdict as trying every order, on short histories of all kinds.
    #[test]
    fn the_verdict_is_that_of_trying_every_order() {
        let mut random = 1u64;
        let mut below = |limit: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % limit
        };
        let mut verdicts = [0; 2];
        for _ in 0..40_000 {
            let shared = below(2) == 0;
            let count = 2 + below(5);
            let mut times: Vec<u64> = (0..2 * count).collect();
            for n in (1..times.len()).rev() {
                times.swap(n, below(n as u64 + 1) as usize);
            }
            let mut values = 0;
            let events: Vec<Event> = times
                .chunks(2)
                .map(|t| {
                    let call = match below(8) {
                        0..3 => {
                            values += 1;
                            Call::Kept(values)
                        }
                        3..6 => Call::Hit { value: 1 + below(3), shared },
                        6 => Call::Miss,
                        _ => Call::Flush,
                    };
                    Event { call, begin: t[0].min(t[1]), end: t[0].max(t[1]) }
                })
                .collect();
            let expected = can_follow(&events, (1 << count) - 1, None);
            verdicts[usize::from(expected)] += 1;
            assert_eq!(explain(&events).is_ok(), expected, "{events:?}");
        }
        assert!(verdicts.iter().all(|&count| count > 4_000), "{verdicts:?}");
    }

    /// Says whether the calls in `left`, one bit each, can take effect with `cached` in the stash.
    fn can_follow(events: &[Event], left: u32, cached: Option<u64>) -> bool {
        let is_left = |n: &usize| left & 1 << n != 0;
        left == 0
            || (0..events.len()).filter(is_left).any(|n| {
                let event = &events[n];
                let is_next =
                    !(0..events.len()).filter(is_left).any(|m| events[m].end < event.begin);
                let after = match event.call {
                    Call::Kept(value) => Some(Some(value)),
                    Call::Hit { value, shared } if cached == Some(value) => {
                        Some(cached.filter(|_| shared))
                    }
                    Call::Hit { .. } => None,
                    Call::Refused | Call::Miss | Call::Flush => Some(None),
                };
                is_next && after.is_some_and(|cached| can_follow(events, left & !(1 << n), cached))
            })
    }
}
