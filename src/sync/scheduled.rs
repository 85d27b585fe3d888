// SPDX-License-Identifier: MIT OR Apache-2.0
//! Atomics for randomised schedules: core's own, in their own size, with a place before each
//! access where shuttle may let another thread run.
//!
//! Schedules are sequentially consistent: orderings are taken and change nothing, and a fence
//! is nothing. What a weaker memory may do besides is for the model checker and the litmus
//! shapes.

pub use core::sync::atomic::Ordering;
use std::cell::Cell;

std::thread_local! {
    /// The threads of an execution run on one of the host's.
    static RACING: Cell<bool> = const { Cell::new(false) };
    /// Is loaded, and never anything else: shuttle switches threads before each load.
    static POINT: shuttle::sync::atomic::AtomicU32 =
        const { shuttle::sync::atomic::AtomicU32::new(0) };
}

/// Says whether there are several threads from now on. While there are not, there is nothing to
/// choose.
pub fn set_racing(racing: bool) {
    RACING.set(racing);
}

/// A place where threads may switch, and nothing else.
pub fn switch_point() {
    if RACING.get() {
        POINT.with(|point| point.load(Ordering::SeqCst));
    }
}

/// As [`core::sync::atomic::fence`]: every access is sequentially consistent already.
pub fn fence(_: Ordering) {}

macro_rules! scheduled_atomic {
    ($name:ident, $value:ty) => {
        /// Core's atomic integer, with places to switch threads.
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name(core::sync::atomic::$name);

        #[allow(missing_docs, reason = "core documents these methods")]
        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }

            pub fn load(&self, _: Ordering) -> $value {
                switch_point();
                self.0.load(Ordering::SeqCst)
            }

            pub fn store(&self, value: $value, _: Ordering) {
                switch_point();
                self.0.store(value, Ordering::SeqCst);
            }

            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                _: Ordering,
                _: Ordering,
            ) -> Result<$value, $value> {
                switch_point();
                self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
            }

            pub fn fetch_add(&self, value: $value, _: Ordering) -> $value {
                switch_point();
                self.0.fetch_add(value, Ordering::SeqCst)
            }

            pub fn fetch_sub(&self, value: $value, _: Ordering) -> $value {
                switch_point();
                self.0.fetch_sub(value, Ordering::SeqCst)
            }

            pub fn fetch_max(&self, value: $value, _: Ordering) -> $value {
                switch_point();
                self.0.fetch_max(value, Ordering::SeqCst)
            }

            pub fn fetch_and(&self, value: $value, _: Ordering) -> $value {
                switch_point();
                self.0.fetch_and(value, Ordering::SeqCst)
            }

            pub fn fetch_or(&self, value: $value, _: Ordering) -> $value {
                switch_point();
                self.0.fetch_or(value, Ordering::SeqCst)
            }
        }
    };
}

scheduled_atomic!(AtomicU32, u32);
scheduled_atomic!(AtomicU64, u64);
