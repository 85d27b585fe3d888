// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tag storage: where it is, what it belongs to, and who needs it.

pub mod binding;
pub mod geometry;
pub mod ledger;
