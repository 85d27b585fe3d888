// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Linux program that loads another kernel and starts it, run in the guest of `make linux`:
//!
//! * `kexec -l IMAGE INITRD COMMAND-LINE` loads a kernel for `kexec -e`
//! * `kexec -p IMAGE INITRD COMMAND-LINE` loads one for the next panic, into what the word
//!   `crashkernel=` of this kernel's command line has reserved
//! * `kexec -e` ends this kernel and starts the one that was loaded
//!
//! It makes the call kexec_load, because Debian's arm64 kernels have no kexec_file_load. With that
//! call the program lays out memory itself: kernel, ramdisk, device tree, a few instructions that do
//! a boot loader's last step, and for a crash kernel the ELF header that becomes /proc/vmcore. It has
//! no C library: it is built with the target that the firmware is built with.

#![no_std]
#![no_main]

extern crate alloc;

mod core_header;
mod iomem;
mod sys;
mod tree;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::panic::PanicInfo;
use linux_program::Start;
use linux_program::sys::{exit, write};

use crate::iomem::Range;
use crate::sys::Segment;

/// What went wrong, in words.
type Result<T> = core::result::Result<T, String>;

const MIB: u64 = 1 << 20;

linux_program::entry!(start);

/// Where the program starts.
extern "C" fn start(start: Start) -> ! {
    // The first is the program itself.
    let texts: Vec<&str> = (1..).map_while(|index| start.argument(index)).collect();
    let outcome = match texts[..] {
        ["-l", kernel, ramdisk, words] => load(kernel, ramdisk, words, false),
        ["-p", kernel, ramdisk, words] => load(kernel, ramdisk, words, true),
        ["-e"] => sys::restart(),
        _ => Err("usage: kexec -l|-p IMAGE INITRD COMMAND-LINE, or kexec -e".into()),
    };
    if let Err(why) = &outcome {
        write(2, format!("kexec: {why}\n").as_bytes());
    }
    exit(outcome.is_err().into())
}

/// The next multiple of `to`, a power of two.
fn round_up(value: u64, to: u64) -> u64 {
    (value + to - 1) & !(to - 1)
}

/// Loads a kernel, for a panic or for `kexec -e`.
fn load(kernel: &str, ramdisk: &str, words: &str, on_panic: bool) -> Result<()> {
    let kernel = sys::map_file(kernel)?;
    let ramdisk = sys::map_file(ramdisk)?;
    let memory = iomem::read()?;
    // Where there is room: what was reserved for it, or the largest range of RAM.
    let area = match on_panic {
        true => memory.crash.ok_or("nothing is reserved: boot with crashkernel=SIZE")?,
        false => {
            memory.ram.iter().copied().max_by_key(Range::length).ok_or("there is no System RAM")?
        }
    };

    // arm64 Image header (Linux, booting.rst): text_offset, image_size, magic.
    let field = |at: usize| Some(u64::from_le_bytes(kernel.get(at..at + 8)?.try_into().ok()?));
    let magic = kernel.get(56..60);
    let (Some(offset), Some(size), Some(b"ARM\x64")) = (field(8), field(16), magic) else {
        return Err("the kernel is no arm64 Image".into());
    };
    let entry = round_up(area.start, 2 * MIB) + offset;
    let tree_at = round_up(entry + size.max(kernel.len() as u64), 2 * MIB);
    let stub_at = tree_at + MIB;
    let header_at = stub_at + MIB / 2;
    let ramdisk_at = tree_at + 2 * MIB;
    let end = round_up(ramdisk_at + ramdisk.len() as u64, sys::PAGE);
    if end > area.end {
        return Err(format!(
            "{} MiB are needed, {} MiB are there",
            (end - area.start) / MIB,
            area.length() / MIB
        ));
    }

    let crash = on_panic.then(|| core_header::build(&memory)).transpose()?;
    let header = crash.as_ref().map(|header| Range::of(header_at, header.len() as u64));
    let chosen = tree::Chosen {
        words,
        ramdisk: Range::of(ramdisk_at, ramdisk.len() as u64),
        // What the kernel of a panic may use, and where it finds what the other one was.
        crash: header.map(|header| (area, header)),
    };
    let tree = tree::build(&sys::read_file("/sys/firmware/fdt")?, &chosen)?;
    if tree.len() as u64 > MIB {
        return Err(format!("the device tree has {} bytes", tree.len()));
    }
    let stub = stub(tree_at, entry);
    let mut segments: Vec<Segment> = [
        (kernel, entry, size),
        (&tree[..], tree_at, 0),
        (&stub[..], stub_at, 0),
        (ramdisk, ramdisk_at, 0),
    ]
    .into_iter()
    .map(|(bytes, at, size)| Segment::new(bytes, at, size))
    .collect();
    if let Some(crash) = &crash {
        segments.push(Segment::new(crash, header_at, 0));
    }
    // In the order of their addresses, as kexec-tools has them.
    segments.sort_by_key(|segment| segment.memory);
    sys::kexec_load(stub_at, &segments, on_panic)
}

/// Instructions that do a boot loader's last step: x0 = device tree, x1-x3 = 0, jump.
fn stub(tree: u64, entry: u64) -> Vec<u8> {
    const WORDS: [u32; 6] = [
        0x5800_0000 | 6 << 5,     // ldr x0, 6 words on
        0x5800_0000 | 7 << 5 | 4, // ldr x4, 7 words on
        0xaa1f_03e1,              // mov x1, xzr
        0xaa1f_03e2,              // mov x2, xzr
        0xaa1f_03e3,              // mov x3, xzr
        0xd61f_0080,              // br x4
    ];
    let mut bytes: Vec<u8> = WORDS.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(tree.to_le_bytes());
    bytes.extend(entry.to_le_bytes());
    bytes
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    write(2, format!("kexec panicked: {information}\n").as_bytes());
    exit(101)
}
