// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's map (stage 2): every physical address of the core leads to itself, in the
//! largest pages that fit, except the shim, its metadata and the tag storage, which lead
//! nowhere. The memory type is left to the guest's own tables.

use super::cache::{dsb_ish, dsb_ishst, invalidate_stage2, isb, tlbi_vmalle1is};
use super::pages;
use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, VTCR_EL2, VTTBR_EL2};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;
use tagstash::addr::{PhysAddr, PhysRange};
use tagstash::options::PaBits;
use tagstash::translation::{IdentityMap, Regime, Shape, Table, TableError, pa_bits};
use tock_registers::interfaces::{Readable, Writeable};

/// All of it readable, writable and executable, as the guest's tables say; MemAttr Normal
/// write-back, the weakest type, so that stage 1's is the one that counts.
const GUEST: u64 = 1 << 10 | 0b11 << 8 | 0b11 << 6 | 0b1111 << 2;

/// The guest's VMID. One guest needs one, and 0 is what EL2 had before.
const VMID: u64 = 1;

/// Tables that one hole may take beyond those of a map without holes: at each of its two ends
/// one of 2 MiB blocks and one of pages.
const TABLES_PER_HOLE: usize = 4;

struct Stage2 {
    map: IdentityMap,
    shape: Shape,
}

/// The guest's map, from its making on.
static STAGE2: Mutex<Option<Stage2>> = Mutex::new(None);

/// Most that PARange may say, as PARange says it. All cores of a machine go by it.
static CAP: AtomicU64 = AtomicU64::new(u64::MAX);

/// PARange of this core.
fn pa_range() -> u64 {
    ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange)
}

/// Makes the guest's map span no more than this.
///
/// # Errors
///
/// The core has fewer bits, which the error says; nothing has changed.
pub fn cap(bits: PaBits) -> Result<(), u32> {
    if bits.pa_range() > pa_range() {
        return Err(pa_bits(pa_range()));
    }
    CAP.store(bits.pa_range(), Ordering::Relaxed);
    Ok(())
}

/// The shape of this core's stage 2.
fn shape() -> Shape {
    Shape::stage2(pa_range().min(CAP.load(Ordering::Relaxed)))
}

/// All addresses that the guest may name.
pub fn range() -> PhysRange {
    shape().range()
}

/// All addresses that this core has, whatever the guest's map is capped to: what EL2 can reach.
pub fn core_range() -> PhysRange {
    Shape::stage2(pa_range()).range()
}

/// Tables, at most, of a map with this many holes.
pub fn tables_for(holes: usize) -> usize {
    shape().tables() + holes * TABLES_PER_HOLE
}

/// Makes the map, with `holes` unmapped.
///
/// # Errors
///
/// [`TableError`], where the pool has too few pages.
pub fn build(holes: &[PhysRange]) -> Result<(), TableError> {
    let shape = shape();
    let root = pages::tables(shape.root_tables).ok_or(TableError::OutOfTables)?;
    // SAFETY: As many tables as the shape asks for, which the pool gave to this map alone.
    let mut map = unsafe { IdentityMap::new(root, shape) };
    map.set(&mut Live, shape.range(), GUEST)?;
    for hole in holes {
        let pages = hole.page_cover().ok_or(TableError::OutOfSpace(*hole))?;
        let inside = pages.intersection(&shape.range());
        // Where the map is capped the shim itself may lie beyond its end, where nothing is mapped.
        if !inside.is_empty() {
            map.set(&mut Live, inside, 0)?;
        }
    }
    *STAGE2.lock() = Some(Stage2 { map, shape });
    Ok(())
}

/// Makes this CPU use the map. Does nothing before [`build`].
pub fn activate() {
    if let Some(stage2) = &*STAGE2.lock() {
        let bits = stage2.shape.bits;
        // Where the tables may lie and lead: anywhere that the core reaches, even if the map is
        // capped. The shim and the tables in it may be above the cap.
        let size = match pa_bits(pa_range()) {
            32 => VTCR_EL2::PS::PA_32B_4GB,
            36 => VTCR_EL2::PS::PA_36B_64GB,
            40 => VTCR_EL2::PS::PA_40B_1TB,
            42 => VTCR_EL2::PS::PA_42B_4TB,
            44 => VTCR_EL2::PS::PA_44B_16TB,
            _ => VTCR_EL2::PS::PA_48B_256TB,
        };
        let start = match stage2.shape.start_level {
            0 => VTCR_EL2::SL0::Granule4KBLevel0,
            _ => VTCR_EL2::SL0::Granule4KBLevel1,
        };
        VTCR_EL2.write(
            VTCR_EL2::RES1.val(1)
                + size
                + VTCR_EL2::TG0::Granule4KB
                + VTCR_EL2::SH0::Inner
                + VTCR_EL2::ORGN0::NormalWBRAWA
                + VTCR_EL2::IRGN0::NormalWBRAWA
                + start
                + VTCR_EL2::T0SZ.val(64 - u64::from(bits)),
        );
        VTTBR_EL2.set(VMID << 48 | stage2.map.root().0);
        isb();
    }
}

/// Tables that some CPU may be using.
struct Live;

impl Regime for Live {
    fn allocate(&mut self) -> Option<NonNull<Table>> {
        pages::tables(1)
    }

    fn publish(&self) {
        dsb_ishst();
    }

    fn invalidate(&self, address: PhysAddr, _level: u32) {
        invalidate_stage2(address);
        dsb_ish();
        // Stage 1 and stage 2 are cached together too.
        tlbi_vmalle1is();
        dsb_ish();
        isb();
    }
}
