// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomics: core's, or the model checker's. The only place that chooses.
//!
//! Under shuttle, whose schedules are random, they are core's with a place to switch threads
//! before each access.
//!
//! loom remembers one last access of an object, so that a thread's own load can hide another
//! thread's from its search. Under loom every access is therefore followed by a relaxed store
//! to one shared word, which makes every two accesses dependent, and so every order of them
//! is explored. It is a store, and nobody loads it, so that it orders nothing: a missing
//! ordering still shows.
//!
//! A load may see any value that the memory model lets it see, so the number of executions doubles
//! with each load of a word that was just written. Where that is too much, a test asks for
//! sequential consistency: interleavings are explored then, and orderings are not.

#[cfg(not(any(loom, shuttle)))]
//!
//! Under `cfg(traced)` every access tells a hook of its thread before and after it is made, so
//! that a test can compare the accesses with those of a model, and hold threads up between any
//! two (`tests/protocol`).

#[cfg(not(any(loom, traced)))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A statistics counter: always core's, because no decision is ever made on one.
pub use core::sync::atomic::AtomicU64 as Counter;

#[cfg(loom)]
pub use checked::{AtomicU32, AtomicU64, fence, set_racing, set_sequential, switch_point};
#[cfg(loom)]
pub use checked::{AtomicU32, AtomicU64, fence, set_racing, switch_point};
#[cfg(any(loom, traced))]
pub use core::sync::atomic::Ordering;
#[cfg(traced)]
pub use traced::{AtomicU32, AtomicU64, Event, Kind, fence, set_hook};

#[cfg(shuttle)]
pub use scheduled::{AtomicU32, AtomicU64, Ordering, fence, set_racing, switch_point};

#[cfg(shuttle)]
mod scheduled;

#[cfg(loom)]
mod checked {
    use core::sync::atomic::Ordering;
    use loom::sync::atomic;
    use std::cell::Cell;

    loom::lazy_static! {
        /// The word that every access touches.
        static ref SHARED: atomic::AtomicU32 = atomic::AtomicU32::new(0);
    }

    std::thread_local! {
        /// The threads of a model run on one of the host's.
        static RACING: Cell<bool> = const { Cell::new(false) };
        static SEQUENTIAL: Cell<bool> = const { Cell::new(false) };
    }

    /// Says whether memory is sequentially consistent from now on: each access is then a place
    /// where threads may switch, and an access of ordinary memory.
    pub fn set_sequential(sequential: bool) {
        SEQUENTIAL.set(sequential);
    }

    /// Says whether there are several threads from now on. While there are not, accesses need
    /// not touch the word, which is faster.
    pub fn set_racing(racing: bool) {
        RACING.set(racing);
    }

    /// Makes the access just made dependent on every other thread's, without a place of its
    /// own where threads may switch: that would be one more for each access, and the number of
    /// executions grows with the square or cube of these.
    fn touch() {
        if RACING.get() {
            loom::stop_exploring();
            SHARED.store(0, Ordering::Relaxed);
            loom::explore();
        }
    }

    /// A place where threads may switch, and nothing else: for what a test does besides
    /// atomic accesses.
    pub fn switch_point() {
        if RACING.get() {
            SHARED.store(0, Ordering::Relaxed);
        }
    }

    /// As [`core::sync::atomic::fence`].
    pub fn fence(order: Ordering) {
        atomic::fence(order);
    }

    macro_rules! checked_atomic {
        ($name:ident, $value:ty) => {
            /// The model checker's atomic integer, with core's interface.
            #[derive(Debug)]
            pub struct $name {
                checked: atomic::$name,
                /// The last value, out of loom's sight.
                last: core::sync::atomic::$name,
            }

            #[allow(missing_docs, reason = "core documents these methods")]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self {
                        checked: atomic::$name::new(value),
                        last: core::sync::atomic::$name::new(value),
                    }
                }

                pub fn load(&self, order: Ordering) -> $value {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.load(Ordering::Relaxed);
                    }
                    let value = self.checked.load(order);
                    touch();
                    value
                }

                /// Plain stores are made by a thread that owns the word, to be read by luck or
                /// behind another access that orders. So they are not touched: whatever mix of
                /// old and new a reader may see, it sees by reading old values late. And one
                /// that changes nothing is left out: nobody could tell, and loom would try
                /// each of two equal values.
                pub fn store(&self, value: $value, order: Ordering) {
                    if self.last.swap(value, Ordering::Relaxed) != value && !SEQUENTIAL.get() {
                        self.checked.store(value, order);
                    }
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.compare_exchange(current, new, success, failure);
                    }
                    let result = self.checked.compare_exchange(current, new, success, failure);
                    if result.is_ok() {
                        self.last.store(new, Ordering::Relaxed);
                    }
                    touch();
                    result
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.fetch_add(value, order);
                    }
                    let old = self.checked.fetch_add(value, order);
                    self.changed(old, old.wrapping_add(value))
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.fetch_sub(value, order);
                    }
                    let old = self.checked.fetch_sub(value, order);
                    self.changed(old, old.wrapping_sub(value))
                }

                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.fetch_max(value, order);
                    }
                    let old = self.checked.fetch_max(value, order);
                    self.changed(old, old.max(value))
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.fetch_and(value, order);
                    }
                    let old = self.checked.fetch_and(value, order);
                    self.changed(old, old & value)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    if SEQUENTIAL.get() {
                        switch_point();
                        return self.last.fetch_or(value, order);
                    }
                    let old = self.checked.fetch_or(value, order);
                    self.changed(old, old | value)
                }

                fn changed(&self, old: $value, new: $value) -> $value {
                    self.last.store(new, Ordering::Relaxed);
                    touch();
                    old
                }
            }
        };
    }

    checked_atomic!(AtomicU32, u32);
    checked_atomic!(AtomicU64, u64);
}

#[cfg(traced)]
mod traced {
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
}
