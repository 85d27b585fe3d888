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
