// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stands in for `mmap` and `mmap64`: recognises guest RAM and the tag memory, and puts one over
//! the other.

use std::ffi::{CString, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::pieces::{self, DATA_PER_TAG_BYTE, Piece, STORAGE_ALIGN};

/// What the environment asks for.
struct Settings {
    /// Device and inode of the file behind guest RAM.
    file: (libc::dev_t, libc::ino_t),
    /// Its path, for messages.
    path: String,
    /// The size of guest RAM in bytes.
    ram: u64,
    /// Which tags live where.
    pieces: Vec<Piece>,
}

static SETTINGS: OnceLock<Option<Settings>> = OnceLock::new();

/// Our own descriptor of the file behind guest RAM; -1 until QEMU maps that file.
static RAM_FILE: AtomicI32 = AtomicI32::new(-1);

/// Set once the tag memory has been put over the storage.
static ALIASED: AtomicBool = AtomicBool::new(false);

/// Prints a line on standard error. A line that cannot be written is not worth stopping for.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "tagalias: {text}");
}

/// Ends the process: a machine without the aliasing that was asked for would prove nothing.
fn give_up(text: &str) -> ! {
    say(text);
    // SAFETY: _exit takes no pointer and does not return; that it runs no exit handlers is what we
    // want, because this may be called before the program's own set-up has run.
    unsafe { libc::_exit(2) }
}

/// Reads the settings; `None` if the environment asks for nothing.
fn read_settings() -> Result<Option<Settings>, String> {
    let variable = |name: &str| match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is not text")),
    };
    let Some(list) = variable("TAGALIAS_PIECES")? else {
        return Ok(None);
    };
    let path = variable("TAGALIAS_FILE")?.ok_or("TAGALIAS_FILE is not set")?;
    let ram = variable("TAGALIAS_RAM")?.ok_or("TAGALIAS_RAM is not set")?;
    let ram = pieces::parse_number(&ram).map_err(|error| format!("TAGALIAS_RAM: {error}"))?;
    let pieces = pieces::parse(&list, ram).map_err(|error| format!("TAGALIAS_PIECES: {error}"))?;
    // SAFETY: sysconf takes no pointer.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if page != STORAGE_ALIGN as libc::c_long {
        return Err(format!("pages of {page} bytes cannot be aliased, only of {STORAGE_ALIGN}"));
    }
    let name = CString::new(path.as_str()).map_err(|_| "TAGALIAS_FILE holds a zero byte")?;
    // SAFETY: all bytes zero is a valid `stat`, which is plain numbers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a C string that outlives the call, `status` is writable memory of the size
    // that stat fills.
    if unsafe { libc::stat(name.as_ptr(), &mut status) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(format!("TAGALIAS_FILE {path}: {error}"));
    }
    Ok(Some(Settings { file: (status.st_dev, status.st_ino), path, ram, pieces }))
}

/// Returns the settings, reading them the first time.
fn settings() -> Option<&'static Settings> {
    SETTINGS.get_or_init(|| read_settings().unwrap_or_else(|error| give_up(&error))).as_ref()
}

/// Maps memory by the system call itself, which is what the functions that this library hides would
/// do.
///
/// # Safety
/// As `mmap`: with `MAP_FIXED` the range must be one whose present contents the caller may replace.
unsafe fn system_mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller keeps mmap's contract; the system call takes the same six arguments on
    // 64-bit Linux, with the offset in bytes, and sets errno in the same way.
    let result =
        unsafe { libc::syscall(libc::SYS_mmap, address, length, protection, flags, file, offset) };
    result as *mut c_void
}

/// Tells whether a descriptor is the file behind guest RAM.
fn is_ram_file(settings: &Settings, file: c_int) -> bool {
    // SAFETY: all bytes zero is a valid `stat`, which is plain numbers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is writable memory of the size that fstat fills; a bad descriptor is an
    // error, not a fault.
    let found = unsafe { libc::fstat(file, &mut status) } == 0;
    found && (status.st_dev, status.st_ino) == settings.file
}

/// Looks at a mapping that has been made, and acts if it is one of the two that matter.
fn after_mmap(address: *mut c_void, length: usize, protection: c_int, flags: c_int, file: c_int) {
    let Some(settings) = settings() else { return };
    if address == libc::MAP_FAILED {
        return;
    }
    if flags & libc::MAP_ANONYMOUS == 0 {
        if is_ram_file(settings, file)
            && length as u64 == settings.ram
            && RAM_FILE.load(Ordering::Acquire) < 0
        {
            if flags & libc::MAP_SHARED == 0 {
                give_up("QEMU maps guest RAM privately: its memory-backend-file needs share=on");
            }
            // SAFETY: fcntl with F_DUPFD_CLOEXEC takes a number and no pointer.
            let own = unsafe { libc::fcntl(file, libc::F_DUPFD_CLOEXEC, 0) };
            if own < 0 {
                let error = std::io::Error::last_os_error();
                give_up(&format!("the descriptor of guest RAM cannot be copied: {error}"));
            }
            RAM_FILE.store(own, Ordering::Release);
        }
        return;
    }
    // QEMU first reserves a larger range without access and then maps memory over part of it: only
    // the second of the two is the tag memory. It is made after guest RAM. Should another mapping
    // look the same, as can secure RAM of just that size, then the second of them ends the run.
    let tag_bytes = settings.ram / DATA_PER_TAG_BYTE;
    let own = RAM_FILE.load(Ordering::Acquire);
    if own < 0
        || length as u64 != tag_bytes
        || flags & libc::MAP_FIXED == 0
        || protection & libc::PROT_WRITE == 0
    {
        return;
    }
    if ALIASED.swap(true, Ordering::AcqRel) {
        give_up("two mappings look like the tag memory; choose another size of RAM");
    }
    for piece in &settings.pieces {
        let at = address.wrapping_byte_add(piece.tag_offset() as usize);
        // SAFETY: the pieces were checked to lie within RAM, so this range lies within the mapping
        // of `tag_bytes` bytes that was made just now and that its owner has not seen yet: nothing
        // in it can be lost. The offset is within the file, which is as long as RAM.
        let result = unsafe {
            system_mmap(
                at,
                piece.storage_length() as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                own,
                piece.storage as i64,
            )
        };
        if result != at {
            let error = std::io::Error::last_os_error();
            give_up(&format!(
                "the storage at {:#x} cannot be mapped over the tags of the data at {:#x}: {error}",
                piece.storage, piece.data
            ));
        }
    }
    let data: u64 = settings.pieces.iter().map(|piece| piece.length).sum();
    say(&format!(
        "on: the tags of {} MiB of data are {} KiB of guest RAM, in {} piece(s)",
        data >> 20,
        (data / DATA_PER_TAG_BYTE) >> 10,
        settings.pieces.len()
    ));
}

/// Maps memory as the C library's function of that name does, then looks at what was mapped.
///
/// # Safety
/// As `mmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller keeps mmap's contract, and the arguments go on unchanged.
    let result = unsafe { system_mmap(address, length, protection, flags, file, offset) };
    // The caller may look at errno, so what we do meanwhile must not show there.
    // SAFETY: the C library's address of this thread's errno is valid for as long as the thread
    // runs.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else reads or writes this thread's errno.
    let saved = unsafe { errno.read() };
    after_mmap(result, length, protection, flags, file);
    // SAFETY: as above.
    unsafe { errno.write(saved) };
    result
}

/// Maps memory: on 64-bit Linux the same as [`mmap64`].
///
/// # Safety
/// As `mmap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: i64,
) -> *mut c_void {
    // SAFETY: the caller keeps mmap's contract.
    unsafe { mmap64(address, length, protection, flags, file, offset) }
}

/// Checks the settings before the program starts, and arranges for a word at its end.
extern "C" fn at_start() {
    if settings().is_some() {
        // SAFETY: atexit takes a function that lives as long as the process: this library is never
        // unloaded.
        unsafe { libc::atexit(at_end) };
    }
}

/// Says that the tag memory was never seen, if so.
extern "C" fn at_end() {
    if let Some(settings) = settings()
        && !ALIASED.load(Ordering::Acquire)
    {
        say(&format!(
            "off: QEMU never mapped {} (was it started with mte=on and {} as guest RAM?)",
            if RAM_FILE.load(Ordering::Acquire) < 0 {
                "the file behind guest RAM"
            } else {
                "tag memory"
            },
            settings.path
        ));
    }
}

/// Runs [`at_start`] when the library is loaded.
// SAFETY: the loader calls every pointer in this section once, as a function without arguments that
// it needs.
#[unsafe(link_section = ".init_array")]
#[used]
static AT_START: extern "C" fn() = at_start;
