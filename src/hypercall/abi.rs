// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers of the ABI: functions, statuses, flags, limits. `docs/abi.md` is the contract.

/// Major and minor version, as VERSION returns them.
pub const VERSION_MAJOR: u16 = 1;
/// See [`VERSION_MAJOR`].
pub const VERSION_MINOR: u16 = 1;

/// The shim's UID as its four words (SMCCC section 6.2): 7a95d3c2-5e0b-4f6e-9d1a-64c8a1f73b50.
pub const UID: [u32; 4] = [0xc2d3_957a, 0x6e4f_0b5e, 0xc864_1a9d, 0x503b_f7a1];

/// Bit 16 of a function number: the caller has no SVE state. Ignored when matching.
const SVE_HINT: u32 = 1 << 16;
/// Owner field of a function number, bits 29:24.
const OWNER_SHIFT: u32 = 24;
/// Owner: vendor-specific hypervisor service.
const OWNER_VENDOR_HYP: u32 = 6;

/// What all numbers of this service's own functions share: all but their low byte.
const OWN: u32 = (Function::Version as u32) >> 8;

/// The low byte of `function`, if it is one of this service's own: a cheap way to tell them apart.
#[inline(always)]
pub const fn own(function: u32) -> Option<u8> {
    if (function & !SVE_HINT) >> 8 == OWN { Some(function as u8) } else { None }
}

/// Says whether a function number belongs to the vendor-specific hypervisor service, of which
/// the shim answers every number.
pub const fn is_vendor_hypervisor(function: u32) -> bool {
    function >> 31 == 1 && (function >> OWNER_SHIFT) & 0x3f == OWNER_VENDOR_HYP
}

/// A function of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Function {
    /// UID of the service.
    Uid = 0x8600_ff01,
    /// Revision of the service.
    Revision = 0x8600_ff03,
    /// Version, features, limits. The null call.
    Version = 0xc600_0100,
    /// Size of one region.
    Region = 0xc600_0101,
    /// One counter.
    Statistic = 0xc600_0102,
    /// Counts frames by what they hold.
    Census = 0xc600_0103,
    /// Dormant or active, and the totals.
    State = 0xc600_0104,
    /// One event of those that happened lately.
    Events = 0xc600_0105,
    /// Makes a pool, or finds a shared one.
    PoolCreate = 0xc600_0110,
    /// Destroys a pool.
    PoolDestroy = 0xc600_0111,
    /// Offers pages to the stash.
    Put = 0xc600_0120,
    /// Asks pages of the stash.
    Get = 0xc600_0121,
    /// Drops pages.
    FlushPage = 0xc600_0122,
    /// Drops an object.
    FlushObject = 0xc600_0123,
    /// Drops a pool's pages.
    FlushPool = 0xc600_0124,
    /// Claims pages for tags.
    Reclaim = 0xc600_0130,
    /// Gives claims back.
    Release = 0xc600_0131,
    /// Says what is known of one page.
    Query = 0xc600_0132,
    /// Lends the storage to the stash.
    Activate = 0xc600_0140,
    /// Takes all storage back for tags.
    Deactivate = 0xc600_0141,
}

impl Function {
    /// All functions.
    pub const ALL: [Function; 20] = [
        Function::Uid,
        Function::Revision,
        Function::Version,
        Function::Region,
        Function::Statistic,
        Function::Census,
        Function::State,
        Function::Events,
        Function::PoolCreate,
        Function::PoolDestroy,
        Function::Put,
        Function::Get,
        Function::FlushPage,
        Function::FlushObject,
        Function::FlushPool,
        Function::Reclaim,
        Function::Release,
        Function::Query,
        Function::Activate,
        Function::Deactivate,
    ];

    /// Decodes a function number; `None` if this version does not know it.
    #[inline(always)]
    pub const fn decode(number: u32) -> Option<Function> {
        Some(match number & !SVE_HINT {
            0x8600_ff01 => Function::Uid,
            0x8600_ff03 => Function::Revision,
            0xc600_0100 => Function::Version,
            0xc600_0101 => Function::Region,
            0xc600_0102 => Function::Statistic,
            0xc600_0103 => Function::Census,
            0xc600_0104 => Function::State,
            0xc600_0105 => Function::Events,
            0xc600_0110 => Function::PoolCreate,
            0xc600_0111 => Function::PoolDestroy,
            0xc600_0120 => Function::Put,
            0xc600_0121 => Function::Get,
            0xc600_0122 => Function::FlushPage,
            0xc600_0123 => Function::FlushObject,
            0xc600_0124 => Function::FlushPool,
            0xc600_0130 => Function::Reclaim,
            0xc600_0131 => Function::Release,
            0xc600_0132 => Function::Query,
            0xc600_0140 => Function::Activate,
            0xc600_0141 => Function::Deactivate,
            _ => return None,
        })
    }
}

/// What a call came to; the value is `x0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Status {
    /// Done.
    Success = 0,
    /// The function number is unknown to this version.
    NotSupported = -1,
    /// An argument is out of its documented range.
    InvalidParameter = -3,
    /// An address is misaligned or not guest RAM.
    InvalidAddress = -4,
    /// There is no tag storage to lend.
    NoReuse = -5,
    /// The pool id names no pool.
    NoSuchPool = -6,
    /// As many pools exist as there can be.
    NoFreePool = -7,
    /// A shared pool of this UUID exists with another page size.
    PoolMismatch = -8,
    /// Another CPU is making a pool.
    Busy = -9,
    /// A page was not kept.
    NotCached = -10,
    /// A page was not there.
    Miss = -11,
    /// A page had no claim.
    NotClaimed = -12,
    /// An external abort ended a copy.
    CopyFault = -13,
}

/// What a call returns in `x0`-`x3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply(pub [u64; 4]);

impl Reply {
    /// A status and its values.
    #[inline(always)]
    pub const fn new(status: Status, values: [u64; 3]) -> Reply {
        Reply([status as i64 as u64, values[0], values[1], values[2]])
    }

    /// A status without values.
    #[inline(always)]
    pub const fn of(status: Status) -> Reply {
        Reply::new(status, [0; 3])
    }

    /// A success with its values.
    #[inline(always)]
    pub const fn with(values: [u64; 3]) -> Reply {
        Reply::new(Status::Success, values)
    }
}
