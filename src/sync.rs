// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomics: core's, or the model checker's. The only place that chooses.
//!
//! loom remembers one last access per object, so that a thread's own load can hide another
//! thread's from its search. Under loom every access is therefore preceded by a relaxed
//! read-modify-write of one shared word, which makes every pair of accesses dependent.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A statistics counter: always core's, because no decision is ever made on one.
pub use core::sync::atomic::AtomicU64 as Counter;

#[cfg(loom)]
pub use checked::{AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub use core::sync::atomic::Ordering;

#[cfg(loom)]
mod checked {
    use core::sync::atomic::Ordering;
    use loom::sync::atomic;

    loom::lazy_static! {
        /// The word that every access touches first.
        static ref SHARED: atomic::AtomicU32 = atomic::AtomicU32::new(0);
    }

    fn touch() {
        SHARED.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`core::sync::atomic::fence`].
    pub fn fence(order: Ordering) {
        atomic::fence(order);
    }

    macro_rules! checked_atomic {
        ($name:ident, $value:ty) => {
            /// The model checker's atomic integer, with core's interface.
            #[derive(Debug)]
            pub struct $name(atomic::$name);

            #[allow(missing_docs, reason = "core documents these methods")]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }

                pub fn load(&self, order: Ordering) -> $value {
                    touch();
                    self.0.load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    touch();
                    self.0.store(value, order);
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    touch();
                    self.0.compare_exchange(current, new, success, failure)
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    touch();
                    self.0.fetch_add(value, order)
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    touch();
                    self.0.fetch_sub(value, order)
                }

                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    touch();
                    self.0.fetch_max(value, order)
                }

                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    touch();
                    self.0.fetch_and(value, order)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    touch();
                    self.0.fetch_or(value, order)
                }
            }
        };
    }

    checked_atomic!(AtomicU32, u32);
    checked_atomic!(AtomicU64, u64);
}
