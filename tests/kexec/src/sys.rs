// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that the program makes (arm64: include/uapi/asm-generic/unistd.h), and its
//! heap, which only grows.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::Result;

global_asm!(
    // The stack pointer is all that the kernel gives a program; a frame record of zeros ends
    // every backtrace.
    ".global _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "b {start}",
    start = sym crate::start,
);

const OPENAT: u64 = 56;
const LSEEK: u64 = 62;
const READ: u64 = 63;
const WRITE: u64 = 64;
const SYNC: u64 = 81;
const EXIT_GROUP: u64 = 94;
const KEXEC_LOAD: u64 = 104;
const REBOOT: u64 = 142;
const MMAP: u64 = 222;

const AT_FDCWD: u64 = -100_i64 as u64;
const SEEK_END: u64 = 2;
const PROT_READ: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const KEXEC_ON_CRASH: u64 = 1;
/// EM_AARCH64 in the upper half.
const KEXEC_ARCH: u64 = 183 << 16;
/// What reboot wants to see, and LINUX_REBOOT_CMD_KEXEC.
const REBOOT_MAGIC: [u64; 2] = [0xfee1_dead, 0x2812_1969];
const REBOOT_KEXEC: u64 = 0x4558_4543;

/// Segments are whole pages.
pub const PAGE: u64 = 4096;

/// A part of the next kernel's memory: struct kexec_segment.
#[repr(C)]
pub struct Segment {
    buffer: u64,
    buffer_size: u64,
    /// Where it goes.
    pub memory: u64,
    memory_size: u64,
}

impl Segment {
    /// These bytes at a physical address, with zeros up to `size` bytes.
    pub fn new(bytes: &[u8], memory: u64, size: u64) -> Segment {
        let length = bytes.len() as u64;
        let memory_size = crate::round_up(size.max(length), PAGE);
        Segment { buffer: bytes.as_ptr() as u64, buffer_size: length, memory, memory_size }
    }
}

/// Makes a system call; negative results are error numbers.
///
/// # Safety
///
/// What the kernel does to memory on this call must be memory that no reference covers, or that
/// the caller lends it for writing.
unsafe fn call(number: u64, arguments: [u64; 4]) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { call_with_six(number, arguments, [0; 2]) }
}

/// The same with the last two arguments that there can be.
///
/// # Safety
///
/// As above.
unsafe fn call_with_six(number: u64, [a, b, c, d]: [u64; 4], [e, f]: [u64; 2]) -> i64 {
    let result;
    // SAFETY: the kernel keeps all registers but x0; what it does to memory is the caller's part.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c,
             in("x3") d, in("x4") e, in("x5") f, options(nostack));
    }
    result
}

/// Opens a file for reading; it is closed when the program ends.
fn open(path: &str) -> Result<u64> {
    let name = [path.as_bytes(), b"\0"].concat();
    // SAFETY: the kernel only reads `name`, and it ends.
    match unsafe { call(OPENAT, [AT_FDCWD, name.as_ptr() as u64, 0, 0]) } {
        file @ 0.. => Ok(file as u64),
        error => Err(format!("{path}: error {}", -error)),
    }
}

/// Reads a file to its end.
pub fn read_file(path: &str) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = piece.len() as u64;
        // SAFETY: the kernel writes to `piece` only, which is ours to lend.
        match unsafe { call(READ, [file, piece.as_mut_ptr() as u64, length, 0]) } {
            0 => return Ok(all),
            read @ 1.. => all.extend(piece.iter().take(read as usize)),
            error => return Err(format!("{path}: error {}", -error)),
        }
    }
}

/// Maps a file, for as long as the program runs.
pub fn map_file(path: &str) -> Result<&'static [u8]> {
    let file = open(path)?;
    // SAFETY: it touches no memory.
    let length = unsafe { call(LSEEK, [file, 0, SEEK_END, 0]) };
    if length <= 0 {
        return Err(format!("{path} is empty"));
    }
    // SAFETY: the kernel chooses a place where nothing is.
    let start =
        unsafe { call_with_six(MMAP, [0, length as u64, PROT_READ, MAP_PRIVATE], [file, 0]) };
    if start < 0 {
        return Err(format!("{path}: error {}", -start));
    }
    // SAFETY: mapped for good, and nobody changes the file.
    Ok(unsafe { core::slice::from_raw_parts(start as *const u8, length as usize) })
}

/// Loads the segments, to be entered at `entry`.
pub fn kexec_load(entry: u64, segments: &[Segment], on_panic: bool) -> Result<()> {
    let flags = KEXEC_ARCH | if on_panic { KEXEC_ON_CRASH } else { 0 };
    let arguments = [entry, segments.len() as u64, segments.as_ptr() as u64, flags];
    // SAFETY: the kernel only reads from the program's memory.
    match unsafe { call(KEXEC_LOAD, arguments) } {
        0 => Ok(()),
        error => Err(format!("kexec_load: error {}", -error)),
    }
}

/// Starts the kernel that is loaded; comes back only to say why not.
pub fn restart() -> String {
    let [first, second] = REBOOT_MAGIC;
    // SAFETY: neither touches this program's memory.
    let error = unsafe {
        call(SYNC, [0; 4]);
        call(REBOOT, [first, second, REBOOT_KEXEC, 0])
    };
    format!("no kernel is loaded, or it does not start: error {}", -error)
}

/// Writes a text to the standard error output.
pub fn complain(text: &str) {
    // SAFETY: the kernel only reads from `text`.
    unsafe { call(WRITE, [2, text.as_ptr() as u64, text.len() as u64, 0]) };
}

/// Ends the process.
pub fn exit(status: u64) -> ! {
    loop {
        // SAFETY: nothing runs after it.
        unsafe { call(EXIT_GROUP, [status, 0, 0, 0]) };
    }
}

/// Room for all that the program ever allocates.
const HEAP: usize = 16 << 20;

#[repr(C, align(4096))]
struct Heap(core::cell::UnsafeCell<[u8; HEAP]>);

// SAFETY: its bytes are handed out once each, by `HeapEnd`.
unsafe impl Sync for Heap {}

static HEAP_BYTES: Heap = Heap(core::cell::UnsafeCell::new([0; HEAP]));

/// How much of it is handed out; nothing comes back.
struct HeapEnd(AtomicUsize);

#[global_allocator]
static HEAP_END: HeapEnd = HeapEnd(AtomicUsize::new(0));

// SAFETY: the pieces do not overlap, are aligned and stay for good.
unsafe impl GlobalAlloc for HeapEnd {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.0.load(Ordering::Relaxed).next_multiple_of(layout.align());
        let end = start.saturating_add(layout.size());
        // Beyond a page the base is not aligned for it.
        if end > HEAP || layout.align() > PAGE as usize {
            return core::ptr::null_mut();
        }
        // The program has one thread.
        self.0.store(end, Ordering::Relaxed);
        HEAP_BYTES.0.get().cast::<u8>().wrapping_add(start)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
