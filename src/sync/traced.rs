// SPDX-License-Identifier: MIT OR Apache-2.0
//! Core's atomics, which tell a hook of each access.

extern crate std;

use core::sync::atomic::{self, Ordering};
use std::cell::Cell;

/// What is done to an atomic integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of core's methods")]
pub enum Kind {
    Load,
    Store,
    CompareExchange,
    Add,
    Sub,
    Max,
    And,
    Or,
}

/// What a hook is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An access to the integer at this address comes next.
    Before(usize, Kind),
    /// It is made: the value before it, and after it.
    After(u64, u64),
    /// A fence.
    Fence(Ordering),
}

std::thread_local! {
    static HOOK: Cell<Option<fn(Event)>> = const { Cell::new(None) };
}

/// Sets the hook of this thread.
pub fn set_hook(hook: Option<fn(Event)>) {
    HOOK.set(hook);
}

fn tell(event: Event) {
    if let Some(hook) = HOOK.get() {
        hook(event);
    }
}

/// As [`core::sync::atomic::fence`].
pub fn fence(order: Ordering) {
    tell(Event::Fence(order));
    atomic::fence(order);
}

macro_rules! traced_atomic {
    ($name:ident, $value:ty) => {
        /// Core's atomic integer, told to a hook.
        #[repr(transparent)]
        #[derive(Debug)]
        pub struct $name(atomic::$name);

        #[allow(missing_docs, reason = "core documents these methods")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            fn told<T>(
                &self,
                kind: Kind,
                access: impl FnOnce(&atomic::$name) -> (T, $value, $value),
            ) -> T {
                tell(Event::Before(core::ptr::from_ref(self) as usize, kind));
                let (result, old, new) = access(&self.0);
                tell(Event::After(u64::from(old), u64::from(new)));
                result
            }

            pub fn load(&self, order: Ordering) -> $value {
                self.told(Kind::Load, |inner| {
                    let value = inner.load(order);
                    (value, value, value)
                })
            }

            pub fn store(&self, value: $value, order: Ordering) {
                self.told(Kind::Store, |inner| {
                    let old = inner.load(Ordering::Relaxed);
                    inner.store(value, order);
                    ((), old, value)
                });
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.told(Kind::CompareExchange, |inner| {
                    match inner.compare_exchange(current, new, success, failure) {
                        Ok(old) => (Ok(old), old, new),
                        Err(old) => (Err(old), old, old),
                    }
                })
            }

            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.told(Kind::Add, |inner| {
                    let old = inner.fetch_add(value, order);
                    (old, old, old.wrapping_add(value))
                })
            }

            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                self.told(Kind::Sub, |inner| {
                    let old = inner.fetch_sub(value, order);
                    (old, old, old.wrapping_sub(value))
                })
            }

            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                self.told(Kind::Max, |inner| {
                    let old = inner.fetch_max(value, order);
                    (old, old, old.max(value))
                })
            }

            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                self.told(Kind::And, |inner| {
                    let old = inner.fetch_and(value, order);
                    (old, old, old & value)
                })
            }

            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.told(Kind::Or, |inner| {
                    let old = inner.fetch_or(value, order);
                    (old, old, old | value)
                })
            }
        }
    };
}

traced_atomic!(AtomicU32, u32);
traced_atomic!(AtomicU64, u64);
