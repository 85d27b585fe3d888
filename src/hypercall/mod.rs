// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hypercalls: the ABI's numbers, and the dispatch.

pub mod abi;
pub mod service;
