// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a guest does next, in numbers that shrink, and the call that it comes to.

use crate::ground::{BUFFER, Ground};
use crate::model::Model;
use proptest::prelude::*;
use tagstash::addr::PAGE_SIZE;
use tagstash::hypercall::abi::Function;

/// One thing that a guest does.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// `pages` are few; `to` says where in the buffer, or in all of guest RAM.
    Put {
        key: Key,
        pages: u8,
        at: Place,
    },
    Get {
        key: Key,
        pages: u8,
        at: Place,
    },
    FlushPage {
        key: Key,
        pages: u16,
    },
    FlushObject {
        key: Key,
    },
    FlushPool {
        pool: u8,
    },
    Create {
        shift: u8,
        uuid: Option<u8>,
    },
    Destroy {
        pool: u8,
    },
    Reclaim {
        run: Run,
    },
    Release {
        run: Run,
    },
    Query {
        run: Run,
    },
    Activate {
        flags: u8,
        cursor: u8,
    },
    Deactivate {
        cursor: u8,
    },
    Census {
        region: u8,
        first: u8,
        count: u8,
    },
    State,
    /// The guest fills a tagged page with tags and data of its own: one that it has claimed, or any
    /// while the storage is dormant.
    UseTags {
        page: u16,
        seed: u8,
    },
    /// The guest's mistake: tags of a page that it has not claimed. Only where that can be told.
    Spoil {
        page: u16,
    },
}

/// A key: few enough that they are met again.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub pool: u8,
    pub object: u8,
    pub index: u8,
}

/// Where a page is to be put from or got to.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Buffer(u8),
    Anywhere(u16),
}

/// A run of tagged pages: the first, and how many further on the last is.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub first: u16,
    pub more: u16,
}

/// An action, and what is out of the ordinary about it.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub action: Action,
    /// An interrupt is pending.
    pub interrupted: bool,
    /// One register, and which odd value it gets.
    pub spoilt: Option<(u8, u8)>,
    /// Copies until an external abort.
    pub abort: Option<u8>,
}

impl Step {
    /// Any step.
    pub fn any() -> impl Strategy<Value = Step> {
        let key = || {
            (0..4u8, 0..2u8, 0..4u8).prop_map(|(pool, object, index)| Key { pool, object, index })
        };
        let place = || prop_oneof![6 => (0..8u8).prop_map(Place::Buffer), 1 => any::<u16>().prop_map(Place::Anywhere)];
        let run = || {
            let more = prop_oneof![6 => Just(0u16), 4 => 1..70u16, 1 => any::<u16>()];
            (any::<u16>(), more).prop_map(|(first, more)| Run { first, more })
        };
        let pages = || prop_oneof![4 => Just(1u8), 1 => 2..5u8];
        let uuid = prop_oneof![2 => Just(None), 1 => (0..3u8).prop_map(Some)];
        let action = prop_oneof![
            24 => (key(), pages(), place()).prop_map(|(key, pages, at)| Action::Put { key, pages, at }),
            16 => (key(), pages(), place()).prop_map(|(key, pages, at)| Action::Get { key, pages, at }),
            2 => (key(), 1..40u16).prop_map(|(key, pages)| Action::FlushPage { key, pages }),
            1 => key().prop_map(|key| Action::FlushObject { key }),
            1 => (0..6u8).prop_map(|pool| Action::FlushPool { pool }),
            3 => (0..3u8, uuid).prop_map(|(shift, uuid)| Action::Create { shift, uuid }),
            1 => (0..6u8).prop_map(|pool| Action::Destroy { pool }),
            6 => run().prop_map(|run| Action::Reclaim { run }),
            6 => run().prop_map(|run| Action::Release { run }),
            1 => run().prop_map(|run| Action::Query { run }),
            2 => (0..2u8, 0..6u8).prop_map(|(flags, cursor)| Action::Activate { flags, cursor }),
            1 => (0..12u8).prop_map(|cursor| Action::Deactivate { cursor }),
            1 => (0..4u8, 0..40u8, 0..50u8)
                .prop_map(|(region, first, count)| Action::Census { region, first, count }),
            1 => Just(Action::State),
            8 => (any::<u16>(), any::<u8>()).prop_map(|(page, seed)| Action::UseTags { page, seed }),
            1 => any::<u16>().prop_map(|page| Action::Spoil { page }),
        ];
        let spoilt = prop_oneof![12 => Just(None), 1 => (1..8u8, 0..20u8).prop_map(Some)];
        let abort = prop_oneof![30 => Just(None), 1 => (0..40u8).prop_map(Some)];
        let interrupted = prop_oneof![3 => Just(false), 1 => Just(true)];
        (action, interrupted, spoilt, abort).prop_map(|(action, interrupted, spoilt, abort)| Step {
            action,
            interrupted,
            spoilt,
            abort,
        })
    }

    /// The registers of the call; `None` if the action is no call.
    pub fn call(&self, model: &Model) -> Option<[u64; 8]> {
        let ground = &model.ground;
        let ids = model.pool_ids();
        let pool = |n: u8| ids.get(n as usize % ids.len().max(1)).copied().unwrap_or(7);
        let size = |n: u8| 1 << model.shift_of(pool(n)).unwrap_or(12);
        let object = |key: Key| [pool(key.pool), u64::from(key.object), 1, 2];
        let mut args = [0; 8];
        let mut set = |function: Function, values: &[u64]| {
            args[0] = u64::from(function as u32);
            args[1..=values.len()].copy_from_slice(values);
        };
        match self.action {
            Action::Put { key, pages, at } | Action::Get { key, pages, at } => {
                let is_put = matches!(self.action, Action::Put { .. });
                let function = if is_put { Function::Put } else { Function::Get };
                let [pool, a, b, c] = object(key);
                let address = at.address(ground, size(key.pool));
                set(function, &[pool, a, b, c, key.index.into(), address, pages.into()]);
            }
            Action::FlushPage { key, pages } => {
                let [pool, a, b, c] = object(key);
                set(Function::FlushPage, &[pool, a, b, c, key.index.into(), 0, pages.into()]);
            }
            Action::FlushObject { key } => set(Function::FlushObject, &object(key)),
            Action::FlushPool { pool: n } => set(Function::FlushPool, &[pool(n)]),
            Action::Create { shift, uuid } => {
                let shift = 12 + 2 * u64::from(shift);
                let flags = shift | u64::from(uuid.is_some()) << 8;
                set(Function::PoolCreate, &[flags, uuid.unwrap_or(0).into(), 5]);
            }
            Action::Destroy { pool: n } => set(Function::PoolDestroy, &[pool(n)]),
            Action::Reclaim { run } => set(Function::Reclaim, &run.pages(ground)),
            Action::Release { run } => set(Function::Release, &run.pages(ground)),
            Action::Query { run } => set(Function::Query, &run.pages(ground)),
            // Mostly from the beginning, so that all of the storage is lent.
            Action::Activate { flags, cursor } => {
                set(Function::Activate, &[flags.into(), cursor.saturating_sub(3).into()]);
            }
            // Mostly towards the end, so that only a part is taken back.
            Action::Deactivate { cursor } => {
                let end = ground.blocks.len() as u64;
                let back = u64::from(11 - cursor.min(11));
                set(Function::Deactivate, &[end.saturating_sub(back % (end + 1))]);
            }
            Action::Census { region, first, count } => {
                set(Function::Census, &[region.into(), first.into(), count.into()]);
            }
            Action::State => set(Function::State, &[]),
            Action::UseTags { .. } | Action::Spoil { .. } => return None,
        }
        if let Some((register, value)) = self.spoilt {
            args[register as usize] = odd_value(value, args[register as usize], ground);
        }
        Some(args)
    }
}

/// A value that a call does not expect, or not often.
fn odd_value(n: u8, was: u64, ground: &Ground) -> u64 {
    let layout = &ground.layout;
    let (start, end) = (layout.base, layout.base + layout.length);
    let hole = ground.holes.first().map_or(start - PAGE_SIZE, |hole| hole.start().0);
    let storage = layout.pieces[0].storage;
    let values = [
        0,
        1,
        was ^ 8,
        was ^ 1 << 12,
        was.wrapping_add(1),
        was | 1 << 32,
        was | 1 << 63,
        64,
        65,
        storage,
        storage + layout.pieces[0].storage_length - PAGE_SIZE,
        hole,
        start,
        start - PAGE_SIZE,
        end,
        end - PAGE_SIZE,
        u64::MAX,
        u64::MAX - 1,
        !0xfff,
        1 << 52,
    ];
    values[n as usize % values.len()]
}

impl Place {
    fn address(self, ground: &Ground, size: u64) -> u64 {
        match self {
            Place::Buffer(n) => ground.buffer + u64::from(n) * size % BUFFER,
            Place::Anywhere(at) => {
                let address = ground.layout.base + ((ground.layout.length * u64::from(at)) >> 16);
                address & !(size - 1)
            }
        }
    }
}

impl Run {
    fn pages(self, ground: &Ground) -> [u64; 2] {
        let Some(first) = pick(&ground.tagged, self.first) else {
            return [ground.buffer, 1 + u64::from(self.more)];
        };
        // The last is guest RAM too, whatever lies between.
        let last = (first + self.more as usize).min(ground.tagged.len() - 1);
        let [first, last] = [first, last].map(|n| ground.tagged[n]);
        [first, (last - first) / PAGE_SIZE + 1]
    }
}

/// One of a list, as a fraction of it.
pub fn pick<T>(list: &[T], at: u16) -> Option<usize> {
    (!list.is_empty()).then(|| (list.len() * usize::from(at)) >> 16)
}
