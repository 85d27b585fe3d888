// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device tree: what the shim reads from it, and the copy that the guest sees.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`blob`] | the structure check that every blob passes first, and the walk over its tokens |
//! | [`console`] | the serial port, found without a heap |
//! | [`bus`] | cells and `ranges`: what the addresses of a node's children are to its parent |
//! | [`node`] | cells, `reg`, `compatible` and `status` of one node |
//! | `idle` | idle states: which there are, which the guest may see |
//! | [`read`] | all that the boot story needs to know |
//! | [`overlay`] | changes to the loader's tree that the image carries |
//! | [`patch`] | the guest's copy |
//!
//! Section numbers are those of the Devicetree Specification, release 0.4.

pub mod blob;
pub mod bus;
pub mod console;
pub mod error;
mod idle;
pub mod node;
pub mod overlay;
pub mod patch;
pub mod read;
