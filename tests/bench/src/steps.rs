// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts the instructions of a piece of code, exactly, by single steps.
//!
//! Time says little on a shared machine, and hardware counters are not to be had on every one.
//! So the program runs as the child of itself: the parent lets it run, but while the child is
//! inside [`Probe::steps`] takes it through its instructions one by one and counts them.

use crate::pin::pin;
use std::io::Error;
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What child and parent share.
#[repr(C)]
struct Shared {
    phase: AtomicU32,
    steps: AtomicU64,
}

/// Nothing is to be counted.
const IDLE: u32 = 0;
/// The instructions from here on count.
const COUNTED: u32 = 1;

/// Counts, in the child.
pub struct Probe {
    shared: &'static Shared,
    /// Steps of an empty piece of code.
    empty: u64,
}

impl Probe {
    /// The instructions that `code` takes, calls and returns included, the kernel's left out;
    /// about [`MOST`] where they are more.
    pub fn steps(&self, code: impl FnOnce()) -> u64 {
        self.raw(code) - self.empty
    }

    fn raw(&self, code: impl FnOnce()) -> u64 {
        // The parent is waiting for this.
        // SAFETY: stops this process, which has one thread.
        unsafe { libc::raise(libc::SIGSTOP) };
        self.shared.phase.store(COUNTED, Ordering::SeqCst);
        code();
        self.shared.phase.store(IDLE, Ordering::SeqCst);
        self.shared.steps.load(Ordering::SeqCst)
    }
}

/// Runs `main` in a child whose instructions can be counted, and ends as it does. An error says
/// why they cannot; `main` has not been run then.
pub fn with_probe(main: impl FnOnce(&Probe) -> ExitCode) -> Result<u8, String> {
    let why = |what: &str| format!("{what}: {}", Error::last_os_error());
    // SAFETY: a new mapping of a page, which is never unmapped.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(why("mmap"));
    }
    // SAFETY: the mapping is larger, aligned, zero, and lives as long as both processes.
    let shared = unsafe { &*page.cast::<Shared>() };
    // Both on one CPU: each step goes from one to the other and back.
    pin(0);
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(why("fork")),
        0 => {
            let none = ptr::null_mut::<libc::c_void>();
            // SAFETY: makes this process its parent's to trace; touches no memory.
            if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) } != 0 {
                std::process::exit(NOT_TRACED.into());
            }
            let mut probe = Probe { shared, empty: 0 };
            probe.empty = probe.raw(|| ());
            let code = main(&probe);
            std::process::exit(if code == ExitCode::SUCCESS { 0 } else { 1 });
        }
        child => match follow(child, shared)? {
            NOT_TRACED => Err("processes cannot be traced here (ptrace)".to_string()),
            status => Ok(status),
        },
    }
}

/// Steps after which code is left to run uncounted: it takes too many to be right.
const MOST: u64 = 200_000;
/// What the child ends with where it cannot be traced.
const NOT_TRACED: u8 = 77;
/// What stands for the end of a child that a signal ended.
const CRASHED: u8 = 101;

/// Lets the child run, and steps it where it asks for it, until it ends. Returns its status.
fn follow(child: libc::pid_t, shared: &Shared) -> Result<u8, String> {
    let none = ptr::null_mut::<libc::c_void>();
    let resume = |request, signal: i32| {
        // SAFETY: the child is stopped, and traced by this thread; no memory of ours is touched.
        unsafe { libc::ptrace(request, child, none, signal as usize as *mut libc::c_void) }
    };
    let mut counting = false;
    let mut steps = 0;
    loop {
        let mut status = 0;
        // SAFETY: `status` is a place for the result.
        if unsafe { libc::waitpid(child, &mut status, 0) } != child {
            return Err(format!("waitpid: {}", Error::last_os_error()));
        }
        if libc::WIFEXITED(status) {
            return Ok(libc::WEXITSTATUS(status) as u8);
        }
        if libc::WIFSIGNALED(status) {
            // It was traced, and what it measured went wrong: no reason to skip anything.
            eprintln!("bench: ended by signal {}", libc::WTERMSIG(status));
            return Ok(CRASHED);
        }
        let signal = match libc::WSTOPSIG(status) {
            libc::SIGSTOP => {
                (counting, steps) = (true, 0);
                0
            }
            libc::SIGTRAP if counting => {
                let counted = shared.phase.load(Ordering::SeqCst) == COUNTED;
                steps += u64::from(counted);
                if steps == MOST || !counted && steps > 0 {
                    shared.steps.store(steps, Ordering::SeqCst);
                    counting = false;
                }
                0
            }
            other => other,
        };
        let request = if counting { libc::PTRACE_SINGLESTEP } else { libc::PTRACE_CONT };
        if resume(request, signal) != 0 {
            return Err(format!("ptrace: {}", Error::last_os_error()));
        }
    }
}
