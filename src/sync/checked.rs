// SPDX-License-Identifier: MIT OR Apache-2.0
//! The model checker's atomics, with core's interface.

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
