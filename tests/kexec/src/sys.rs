// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Linux system calls that the program makes, with their errors in words, and its heap, which
//! only grows.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};
use linux_program::sys::{self, Errno, PROT_READ, call};

use crate::Result;

const LSEEK: u64 = 62;
const SYNC: u64 = 81;
const KEXEC_LOAD: u64 = 104;
const REBOOT: u64 = 142;

const SEEK_END: u64 = 2;
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

/// Makes an error of a call words.
fn error(what: &str) -> impl Fn(Errno) -> String {
    move |Errno(number)| format!("{what}: error {number}")
}

/// Opens a file for reading; it is closed when the program ends.
fn open(path: &str) -> Result<u64> {
    sys::open(&[path.as_bytes(), b"\0"].concat(), 0).map_err(error(path))
}

/// Reads a file to its end.
pub fn read_file(path: &str) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match sys::read(file, &mut piece).map_err(error(path))? {
            0 => return Ok(all),
            read => all.extend(piece.iter().take(read as usize)),
        }
    }
}

/// Maps a file, for as long as the program runs.
pub fn map_file(path: &str) -> Result<&'static [u8]> {
    let file = open(path)?;
    // SAFETY: it touches no memory.
    let length = unsafe { call(LSEEK, [file, 0, SEEK_END]) }.unwrap_or(0);
    if length == 0 {
        return Err(format!("{path} is empty"));
    }
    let start = sys::map_file(file, length, PROT_READ).map_err(error(path))?;
    // SAFETY: mapped for good, and nobody changes the file.
    Ok(unsafe { core::slice::from_raw_parts(start as *const u8, length as usize) })
}

/// Loads the segments, to be entered at `entry`.
pub fn kexec_load(entry: u64, segments: &[Segment], on_panic: bool) -> Result<()> {
    let flags = KEXEC_ARCH | if on_panic { KEXEC_ON_CRASH } else { 0 };
    let arguments = [entry, segments.len() as u64, segments.as_ptr() as u64, flags];
    // SAFETY: the kernel only reads from the program's memory.
    unsafe { call(KEXEC_LOAD, arguments) }.map(|_| ()).map_err(error("kexec_load"))
}

/// Starts the kernel that is loaded; comes back only to say why not.
pub fn restart() -> Result<()> {
    let [first, second] = REBOOT_MAGIC;
    // SAFETY: neither touches this program's memory.
    let result = unsafe {
        let _ = call(SYNC, []);
        call(REBOOT, [first, second, REBOOT_KEXEC])
    };
    result.map(|_| ()).map_err(error("no kernel is loaded, or it does not start"))
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
