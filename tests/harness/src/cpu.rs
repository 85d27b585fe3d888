// SPDX-License-Identifier: MIT OR Apache-2.0
//! One function for each instruction that Rust has no words for.

use core::arch::asm;

/// Reads a system register by its name.
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: the harness reads registers that are readable at EL1 and change nothing.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack));
        }
        value
    }};
}
pub(crate) use read_register;

/// Writes a system register by its name.
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: callers write only controls that leave memory safety as it is: interrupts,
        // timers, tagging, floating point and this CPU's own pointer.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack));
        }
    }};
}
pub(crate) use write_register;

/// Waits until all that this CPU did to memory is complete, for everyone.
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) }
}

/// Makes changes of system registers count for the instructions that follow.
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack)) }
}

/// Makes this CPU translate by its registers and tables as they are now.
pub fn forget_translations() {
    // SAFETY: what was cached is read again.
    unsafe { asm!("isb", "tlbi vmalle1", "dsb nsh", "isb", options(nostack)) }
}

/// Makes all CPUs translate by their tables as they are now.
pub fn forget_translations_everywhere() {
    // SAFETY: what was cached is read again.
    unsafe { asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack)) }
}

/// Waits until all that this CPU did to memory is complete for its inner shareable domain.
pub fn dsb_inner() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
}

/// Cleans and invalidates the line of tags of an address, to the point of coherency: DC CIGVAC.
pub fn clean_and_invalidate_tag_line(address: u64) {
    // SAFETY: changes no tags as the CPUs see them.
    unsafe { asm!("sys #3, c7, c14, #3, {}", in(reg) address, options(nostack, preserves_flags)) }
}

/// Cleans and invalidates the cache line at an address, to the point of coherency.
pub fn clean_and_invalidate_line(address: u64) {
    // SAFETY: changes no memory as the CPUs see it.
    unsafe { asm!("dc civac, {}", in(reg) address, options(nostack, preserves_flags)) }
}

/// Cache maintenance by set and way.
pub type SetWay = fn(u64);

/// Makes an instruction of [`SetWay`].
macro_rules! set_way {
    ($instruction:literal) => {
        (
            $instruction,
            (|operand: u64| {
                // SAFETY: with what EL2 is to set (HCR_EL2.SWIO) every invalidation cleans first.
                unsafe { asm!(concat!($instruction, ", {}"), in(reg) operand, options(nostack)) }
            }) as SetWay,
        )
    };
}

/// The data caches' own.
pub const SET_WAY: [(&str, SetWay); 3] =
    [set_way!("dc isw"), set_way!("dc csw"), set_way!("dc cisw")];

/// Those of tags, where there are tags: IGSW, IGDSW, CGSW, CGDSW, CIGSW, CIGDSW.
pub const SET_WAY_OF_TAGS: [(&str, SetWay); 6] = [
    set_way!("sys #0, c7, c6, #4"),
    set_way!("sys #0, c7, c6, #6"),
    set_way!("sys #0, c7, c10, #4"),
    set_way!("sys #0, c7, c10, #6"),
    set_way!("sys #0, c7, c14, #4"),
    set_way!("sys #0, c7, c14, #6"),
];

/// Cleans the cache line at an address to the point of coherency.
pub fn clean_line(address: u64) {
    // SAFETY: a clean changes no memory as the CPUs see it.
    unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack)) }
}

/// Tells the CPU that this is a spinning loop.
pub fn spin() {
    core::hint::spin_loop();
}

/// The virtual counter.
pub fn counter() -> u64 {
    read_register!("cntvct_el0")
}

/// Ticks of the counter in a second.
pub fn counter_frequency() -> u64 {
    read_register!("cntfrq_el0")
}

/// Lets interrupts come.
pub fn unmask_interrupts() {
    // SAFETY: the vectors handle interrupts and keep every register.
    unsafe { asm!("msr daifclr, #2", options(nostack)) }
}

/// Keeps interrupts away.
pub fn mask_interrupts() {
    // SAFETY: only delays interrupts.
    unsafe { asm!("msr daifset, #2", options(nostack)) }
}

/// Whether this CPU has MTE with tag memory.
pub fn has_tag_memory() -> bool {
    (read_register!("id_aa64pfr1_el1") >> 8) & 0xf >= 2
}

/// Bytes whose tags STGM and LDGM move.
pub fn tag_block_bytes() -> u64 {
    4 << (read_register!("s3_1_c0_c0_4") & 0xf)
}

/// Stores the tag in bits 59:56 of `tagged` for the granule at `address`.
///
/// # Safety
///
/// The page's tag storage must not be lent: else some cached page changes.
pub unsafe fn stg(address: u64, tag: u64) {
    // SAFETY: the caller vouches for the storage; the data do not change.
    unsafe {
        asm!(".arch_extension memtag", "stg {}, [{}]", in(reg) tag << 56, in(reg) address,
            options(nostack));
    }
}

/// The tag of the granule at `address`.
pub fn ldg(address: u64) -> u64 {
    let mut tagged = address;
    // SAFETY: reads a tag.
    unsafe {
        asm!(".arch_extension memtag", "ldg {}, [{}]", inout(reg) tagged, in(reg) address,
            options(nostack));
    }
    (tagged >> 56) & 0xf
}

/// Stores a tag as [`stg`] does and clears the granule.
///
/// # Safety
///
/// As for [`stg`], and the granule must be the caller's.
pub unsafe fn stzg(address: u64, tag: u64) {
    // SAFETY: the caller vouches for the storage and for the data.
    unsafe {
        asm!(".arch_extension memtag", "stzg {}, [{}]", in(reg) tag << 56, in(reg) address,
            options(nostack));
    }
}

/// Stores the tags of the block at `address`, 4 bits a granule, in place by address bits 7:4.
///
/// # Safety
///
/// As for [`stg`].
pub unsafe fn stgm(address: u64, tags: u64) {
    // SAFETY: the caller vouches for the storage; the data do not change.
    unsafe {
        asm!(".arch_extension memtag", "stgm {}, [{}]", in(reg) tags, in(reg) address,
            options(nostack));
    }
}

/// The tags of the block at `address`, as [`stgm`] takes them.
pub fn ldgm(address: u64) -> u64 {
    let tags: u64;
    // SAFETY: reads tags.
    unsafe {
        asm!(".arch_extension memtag", "ldgm {}, [{}]", out(reg) tags, in(reg) address,
            options(nostack));
    }
    tags
}

/// A semihosting request: operation and parameter, result.
///
/// # Safety
///
/// `parameter` must be what the operation asks for.
pub unsafe fn semihosting(operation: u64, parameter: u64) -> u64 {
    let result: u64;
    // SAFETY: the caller passes the right parameters; the host touches nothing else.
    unsafe {
        asm!("hlt #0xf000", inout("x0") operation => result, in("x1") parameter,
            options(nostack));
    }
    result
}

/// All general registers of a call.
pub type Registers = [u64; 31];

/// The SIMD registers, FPCR and the flags around a call.
#[repr(C, align(16))]
pub struct SimdState {
    /// `q0`-`q31`, two words each.
    pub vectors: [u64; 64],
    /// FPCR.
    pub control: u64,
    /// NZCV.
    pub flags: u64,
}

unsafe extern "C" {
    fn hvc_whole(registers: *mut Registers);
    fn smc_whole(registers: *mut Registers);
    fn hvc_with_simd(state: *mut SimdState, arguments: *mut [u64; 8]);
    fn load_word(address: u64) -> u64;
    fn store_word(address: u64, value: u64);
    fn jump_to(address: u64);
    fn read_into_each(values: *mut [u64; 31], flags: u64) -> u64;
    fn read_gmid();
    fn read_rgsr();
    fn write_rgsr();
    fn read_gcr();
    fn write_gcr();
    fn read_tfsr();
    fn write_tfsr();
    fn read_tfsre0();
    fn write_tfsre0();
    fn copy_page();
}

/// HVC with all registers given; afterwards `registers` says what they became.
///
/// # Safety
///
/// The call may write memory (GET) and tag storage: the addresses must be the caller's.
pub unsafe fn hvc(registers: &mut Registers) {
    // SAFETY: the assembly keeps what the procedure call standard says; the rest is the caller's.
    unsafe { hvc_whole(registers) }
}

/// SMC, else as [`hvc`].
///
/// # Safety
///
/// As for [`hvc`].
pub unsafe fn smc(registers: &mut Registers) {
    // SAFETY: as above.
    unsafe { smc_whole(registers) }
}

/// HVC with SIMD registers, FPCR and flags given and looked at afterwards.
///
/// # Safety
///
/// As for [`hvc`].
pub unsafe fn hvc_simd(state: &mut SimdState, arguments: &mut [u64; 8]) {
    // SAFETY: as above; the softfloat target keeps nothing in these registers.
    unsafe { hvc_with_simd(state, arguments) }
}

/// A load that may abort (see `exceptions::expect`).
///
/// # Safety
///
/// If it does not abort, reading there must be harmless.
pub unsafe fn load(address: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { load_word(address) }
}

/// A store that may abort.
///
/// # Safety
///
/// If it does not abort, writing there must be harmless.
pub unsafe fn store(address: u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { store_word(address, value) }
}

/// A jump that must abort.
///
/// # Safety
///
/// What lies there must not be executable, or return at once.
pub unsafe fn jump(address: u64) {
    // SAFETY: the caller's.
    unsafe { jump_to(address) }
}

/// An access to a register that only MTE has.
pub type Probe = unsafe extern "C" fn();

/// All of them, by name. For [`run_probe`].
pub const MTE_REGISTERS: [(&str, Probe); 9] = [
    ("a read of GMID_EL1", read_gmid),
    ("a read of RGSR_EL1", read_rgsr),
    ("a write of RGSR_EL1", write_rgsr),
    ("a read of GCR_EL1", read_gcr),
    ("a write of GCR_EL1", write_gcr),
    ("a read of TFSR_EL1", read_tfsr),
    ("a write of TFSR_EL1", write_tfsr),
    ("a read of TFSRE0_EL1", read_tfsre0),
    ("a write of TFSRE0_EL1", write_tfsre0),
];

/// Runs one of [`MTE_REGISTERS`], which may be undefined (see `exceptions::expect`).
///
/// # Safety
///
/// If the register is there, writing 0 to it must be harmless.
pub unsafe fn run_probe(probe: Probe) {
    // SAFETY: the caller's.
    unsafe { probe() }
}

/// Reads ID_AA64PFR1_EL1 into x0 to x30, one after the other, and into XZR; `values` says what
/// each was. The flags are set before, and returned as they are then.
pub fn read_id_into_each(values: &mut [u64; 31], flags: u64) -> u64 {
    // SAFETY: the assembly keeps what the procedure call standard says, and writes the array.
    unsafe { read_into_each(values, flags) }
}

/// CRm and op2 of all ID registers that HCR_EL2.TID3 traps, the reserved ones included.
pub fn id_registers() -> impl Iterator<Item = (u8, u8)> {
    (1..8).flat_map(|crm| (0..8).map(move |op2| (crm, op2)))
}

/// Reads an ID register: op0 3, op1 0, CRn 0, and `crm`, `op2`.
pub fn id_register(crm: u8, op2: u8) -> u64 {
    macro_rules! read {
        ($($crm:literal)+) => {
            match crm {
                $($crm => read!(@$crm 0 1 2 3 4 5 6 7),)+
                _ => panic!("no ID register has CRm {crm}"),
            }
        };
        (@$crm:literal $($op2:literal)+) => {
            match op2 {
                $($op2 => {
                    let value: u64;
                    // SAFETY: ID registers are readable at EL1, the reserved ones as zero.
                    unsafe {
                        asm!(concat!("mrs {}, S3_0_C0_C", $crm, "_", $op2), out(reg) value,
                            options(nostack));
                    }
                    value
                })+
                _ => panic!("no ID register has op2 {op2}"),
            }
        };
    }
    read!(1 2 3 4 5 6 7)
}

/// Copies a page with general registers between two readings of the counter: ticks.
///
/// # Safety
///
/// Both pages must be the caller's.
pub unsafe fn timed_copy(destination: u64, source: u64) -> u64 {
    let (before, after): (u64, u64);
    // SAFETY: the pages are the caller's; the function clobbers what `clobber_abi` says.
    unsafe {
        asm!(
            "mrs x20, cntvct_el0",
            "bl {copy}",
            "mrs x21, cntvct_el0",
            out("x20") before, lateout("x21") after, copy = sym copy_page,
            inout("x0") destination => _, inout("x1") source => _, clobber_abi("C"),
        );
    }
    after.wrapping_sub(before)
}

/// HVC between two readings of the counter: ticks, and `x0`-`x3`.
///
/// # Safety
///
/// As for [`hvc`].
pub unsafe fn timed_hvc(arguments: &[u64; 8]) -> (u64, [u64; 4]) {
    let [a0, a1, a2, a3, a4, a5, a6, a7] = *arguments;
    let (before, after): (u64, u64);
    let (r0, r1, r2, r3): (u64, u64, u64, u64);
    // SAFETY: the contract keeps x4 and up, and the caller's addresses are its own.
    unsafe {
        asm!(
            "mrs {before}, cntvct_el0",
            "hvc #0",
            "mrs {after}, cntvct_el0",
            before = out(reg) before, after = lateout(reg) after,
            inout("x0") a0 => r0, inout("x1") a1 => r1,
            inout("x2") a2 => r2, inout("x3") a3 => r3,
            in("x4") a4, in("x5") a5, in("x6") a6, in("x7") a7,
            options(nostack),
        );
    }
    (after.wrapping_sub(before), [r0, r1, r2, r3])
}

/// Ticks of sixteen instructions that do nothing, and what two readings of the counter add.
pub fn timed_sixteen() -> u64 {
    let (before, after): (u64, u64);
    // SAFETY: reads a counter.
    unsafe {
        asm!(
            "mrs {}, cntvct_el0",
            "nop", "nop", "nop", "nop", "nop", "nop", "nop", "nop",
            "nop", "nop", "nop", "nop", "nop", "nop", "nop", "nop",
            "mrs {}, cntvct_el0",
            out(reg) before, out(reg) after, options(nostack),
        );
    }
    after.wrapping_sub(before)
}

/// What [`timed_hvc`] measures of its own.
pub fn timed_nothing() -> u64 {
    let (before, after): (u64, u64);
    // SAFETY: reads a counter.
    unsafe {
        asm!("mrs {}, cntvct_el0", "mrs {}, cntvct_el0", out(reg) before, out(reg) after,
            options(nostack));
    }
    after.wrapping_sub(before)
}
