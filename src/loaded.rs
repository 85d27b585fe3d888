// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the loader put in memory, each piece with its name: checked against RAM and against
//! each other, so that a message can say what is in whose way.

use crate::addr::PhysRange;
use crate::ram::GuestRam;
use alloc::vec::Vec;
use core::fmt;

/// A thing in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The shim itself, with bss, stacks and heap.
    Shim,
    /// The firmware's device tree.
    DeviceTree,
    /// The guest's kernel.
    Kernel,
    /// The guest's initial ramdisk.
    Ramdisk,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shim => "shim",
            Self::DeviceTree => "device tree",
            Self::Kernel => "kernel",
            Self::Ramdisk => "ramdisk",
        })
    }
}

/// Why what was loaded cannot be used as it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// A piece has no bytes.
    Empty(Name),
    /// Some of a piece is not in a memory node.
    NotInRam {
        /// The piece.
        name: Name,
        /// Where it is.
        range: PhysRange,
    },
    /// Two pieces share bytes.
    Overlap {
        /// The piece that has to move.
        name: Name,
        /// Where it is.
        range: PhysRange,
        /// The other piece.
        other: Name,
        /// Where that is.
        other_range: PhysRange,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(name) => write!(
                f,
                "the {name} has length 0 in /chosen: have the loader write its address and length"
            ),
            Self::NotInRam { name, range } => {
                write!(f, "the {name} at {range} is not in RAM: load it into a memory node's range")
            }
            Self::Overlap { name, range, other, other_range } => write!(
                f,
                "the {name} at {range} overlaps the {other} at {other_range}: load it elsewhere"
            ),
        }
    }
}

impl core::error::Error for LoadError {}

/// What lies where. No two pieces overlap.
#[derive(Clone, Debug, Default)]
pub struct Loaded(Vec<(Name, PhysRange)>);

impl Loaded {
    /// Notes the shim and the device tree, which are where they are: the shim runs, and the tree
    /// has been read.
    pub fn new(shim: PhysRange, tree: PhysRange) -> Loaded {
        Loaded(Vec::from([(Name::Shim, shim), (Name::DeviceTree, tree)]))
    }

    /// Adds a piece, which has to lie in `ram` and apart from all others.
    ///
    /// # Errors
    ///
    /// [`LoadError`]; nothing is added then.
    pub fn add(&mut self, name: Name, range: PhysRange, ram: &GuestRam) -> Result<(), LoadError> {
        if range.is_empty() {
            return Err(LoadError::Empty(name));
        }
        if ram.check(range.start(), range.len()).is_none() {
            return Err(LoadError::NotInRam { name, range });
        }
        if let Some((other, other_range)) = self.overlapping(range) {
            return Err(LoadError::Overlap { name, range, other, other_range });
        }
        self.0.push((name, range));
        Ok(())
    }

    /// The first piece that shares bytes with `range`.
    pub fn overlapping(&self, range: PhysRange) -> Option<(Name, PhysRange)> {
        self.0.iter().copied().find(|(_, taken)| taken.overlaps(&range))
    }

    /// The ranges of all pieces but the kernel, which may be moved.
    pub fn fixed(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.0.iter().filter(|(name, _)| *name != Name::Kernel).map(|(_, range)| *range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PhysAddr;
    use std::string::ToString;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::from_bounds(PhysAddr(start), PhysAddr(end)).unwrap()
    }

    fn loaded() -> (Loaded, GuestRam) {
        let ram = GuestRam::new(&[range(0x4000_0000, 0x5000_0000)], &[]);
        (Loaded::new(range(0x4020_0000, 0x40b0_0000), range(0x4100_0000, 0x4100_1fdb)), ram)
    }

    #[test]
    fn pieces_that_lie_apart_are_taken() {
        let (mut loaded, ram) = loaded();
        loaded.add(Name::Kernel, range(0x4100_1fdb, 0x4200_0000), &ram).unwrap();
        loaded.add(Name::Ramdisk, range(0x4fff_ffff, 0x5000_0000), &ram).unwrap();
        let ramdisk = range(0x4fff_ffff, 0x5000_0000);
        assert_eq!(loaded.fixed().count(), 3);
        assert_eq!(loaded.fixed().last(), Some(ramdisk));
        let kernel = range(0x4100_1fdb, 0x4200_0000);
        assert_eq!(
            loaded.overlapping(range(0x41ff_ffff, 0x4300_0000)),
            Some((Name::Kernel, kernel))
        );
        assert_eq!(loaded.overlapping(range(0x4200_0000, 0x4fff_ffff)), None);
    }

    #[test]
    fn each_conflict_is_named_with_what_to_do() {
        let (kernel, ramdisk) = (Name::Kernel, Name::Ramdisk);
        let cases = [
            (
                kernel,
                range(0x4200_0000, 0x4200_0000),
                "the kernel has length 0 in /chosen: have the loader write its address and length",
            ),
            (
                ramdisk,
                range(0x4fff_f000, 0x5000_1000),
                "the ramdisk at 0x4ffff000..0x50001000 is not in RAM: load it into a memory node's range",
            ),
            (
                kernel,
                range(0x40af_ffff, 0x4200_0000),
                "the kernel at 0x40afffff..0x42000000 overlaps the shim at 0x40200000..0x40b00000: \
                 load it elsewhere",
            ),
            (
                ramdisk,
                range(0x4100_1fda, 0x4100_2000),
                "the ramdisk at 0x41001fda..0x41002000 overlaps the device tree at \
                 0x41000000..0x41001fdb: load it elsewhere",
            ),
        ];
        for (name, piece, message) in cases {
            let (mut loaded, ram) = loaded();
            let error = loaded.add(name, piece, &ram).unwrap_err();
            assert_eq!(error.to_string(), message);
            assert_eq!(loaded.0.len(), 2, "{message}");
        }
    }
}
