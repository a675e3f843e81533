//! Signals: none may end the program without a word.
//!
//! * `SIGXFSZ` and `SIGPIPE` are ignored, so that a file size limit and a closed pipe are errors of the write
//!   (`EFBIG`, `EPIPE`) with a place and an exit code.
//! * `SIGBUS` is raised when a page of a mapped file cannot be read: the device failed or somebody truncated the
//!   file. The handler says which file and offset, and ends with the exit code of I/O errors. (`read_mode=pread`
//!   turns such failures into ordinary errors.)
//! * `SIGINT` ends the program, except while [`interruptible`] work runs: the first one then only asks it to stop.
//! * `SIGINT` and `SIGTERM` end a `load` at once, with a line that says how much of it is kept ([`tell_loaded`]).
//!
//! The handler may only call what is async-signal-safe: `open`, `read`, `write`, `_exit`, and code without locks or
//! allocation. It finds the file in `/proc/self/maps`, read line by line into a fixed buffer.

#![expect(
    unsafe_code,
    reason = "signal handlers cannot be installed, nor their arguments read, without"
)]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Exit;

/// Installs the handlers. Called once, before any thread is started.
pub fn install() {
    // SAFETY: SIG_IGN is a valid disposition for both, and no other thread exists that could rely on another one.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
    // SAFETY: sigaction is plain data for which all zero bytes are a valid value (empty mask, no flags).
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    // A second fault inside the handler ends the process at once instead of looping.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
    // SAFETY: `action` is initialised, lives over the call, and its handler has the signature SA_SIGINFO asks for.
    unsafe {
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Whether `SIGINT` came while [`interruptible`] work ran.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Does `work`, which looks at [`was_interrupted`] and stops by itself. A second `SIGINT` ends the program at once, as
/// one does outside of `work`.
pub fn interruptible<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: as in `install`; the handler stores into an atomic and nothing else.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigint as *const () as usize;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both live over the call, and the handler has the signature of one without SA_SIGINFO.
    unsafe {
        libc::sigaction(libc::SIGINT, &raw const action, before.as_mut_ptr());
    }
    let result = work();
    // SAFETY: `before` was filled above, or is the default disposition (all zero).
    unsafe {
        libc::sigaction(libc::SIGINT, before.as_ptr(), std::ptr::null_mut());
    }
    result
}

/// Entries that a `load` has written so far.
static LOADED: AtomicU64 = AtomicU64::new(0);

/// From now on `SIGINT` and `SIGTERM` say what [`tell_loaded`] was told last, and end the program. A signal that is
/// ignored stays so.
pub fn watch_load() {
    // SAFETY: as in `install`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_end_of_load as *const () as usize;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: all live over the calls, `before` is filled by the first or all zero, which is the default
        // disposition, and the handler has the signature of one without SA_SIGINFO.
        unsafe {
            libc::sigaction(signal, std::ptr::null(), before.as_mut_ptr());
            if before.assume_init().sa_sigaction != libc::SIG_IGN {
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// So many entries of the load are written: they survive the end of the program.
pub fn tell_loaded(entries: u64) {
    LOADED.store(entries, Ordering::Relaxed);
}

extern "C" fn on_end_of_load(signal: libc::c_int) {
    let mut line = Line::new();
    line.push(
        b"error: interrupted: load: load again; entries that are kept of this load: at least ",
    );
    line.push_number(LOADED.load(Ordering::Relaxed), 10);
    line.push(b"\n");
    // SAFETY: the bytes are initialised and `len` of them are in the buffer; write and _exit are async-signal-safe.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len);
        libc::_exit(128 + signal);
    }
}

/// Whether [`interruptible`] work was asked to stop.
pub fn was_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

extern "C" fn on_sigint(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

extern "C" fn on_sigbus(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, and for SIGBUS its address field is the one set.
    let address = unsafe { (*info).si_addr() } as u64;
    let mut line = Line::new();
    line.push(b"error: a mapped page cannot be read (SIGBUS): ");
    if !push_file_at(address, &mut line) {
        line.push(b"address 0x");
        line.push_number(address, 16);
    }
    line.push(b": check the device and the file, then run `engine-cli verify`; read_mode=pread makes it an error\n");
    // SAFETY: the bytes are initialised and `len` of them are in the buffer; write and _exit are async-signal-safe.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len);
        libc::_exit(Exit::Io as libc::c_int);
    }
}

/// Appends `PATH (offset N)` of the file mapped at `address`. False if none is found.
fn push_file_at(address: u64, line: &mut Line) -> bool {
    // SAFETY: the path is a NUL-terminated constant; open is async-signal-safe.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return false;
    }
    let mut entry = Line::new();
    let mut chunk = [0_u8; 512];
    loop {
        // SAFETY: the buffer is writable for its whole length; read is async-signal-safe.
        let got = unsafe { libc::read(maps, chunk.as_mut_ptr().cast(), chunk.len()) };
        let Ok(got @ 1..) = usize::try_from(got) else {
            return false;
        };
        for byte in chunk.iter().take(got) {
            if *byte != b'\n' {
                entry.push(&[*byte]);
                continue;
            }
            if let Some((path, offset)) = match_entry(entry.as_bytes(), address) {
                line.push(path);
                line.push(b" (offset ");
                line.push_number(offset, 10);
                line.push(b")");
                return true;
            }
            entry.len = 0;
        }
    }
}

/// The path in a line of `/proc/self/maps`, and the file offset of `address`, if the line's range holds it.
///
/// The grammar is `START-END PERMS OFFSET DEVICE INODE      PATH`, numbers in hexadecimal.
fn match_entry(entry: &[u8], address: u64) -> Option<(&[u8], u64)> {
    let (start, rest) = hexadecimal(entry)?;
    let (end, rest) = hexadecimal(rest.strip_prefix(b"-")?)?;
    if !(start..end).contains(&address) {
        return None;
    }
    let permissions_end = rest.iter().skip(1).position(|byte| *byte == b' ')? + 1;
    let (offset, _) = hexadecimal(rest.get(permissions_end + 1..)?)?;
    let path_start = rest.iter().position(|byte| *byte == b'/')?;
    Some((rest.get(path_start..)?, offset + (address - start)))
}

fn hexadecimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let len = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = text.split_at_checked(len)?;
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        Some(value.checked_mul(16)? + u64::from(char::from(*digit).to_digit(16)?))
    })?;
    (len > 0).then_some((value, rest))
}

/// A line of text in a fixed buffer. What does not fit is cut off.
struct Line {
    bytes: [u8; 4608],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Line { bytes: [0; 4608], len: 0 }
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(slot) = self.bytes.get_mut(self.len) {
                *slot = *byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, mut value: u64, base: u64) {
        let mut digits = [0_u8; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b"0123456789abcdef"[(value % base) as usize];
            value /= base;
            if value == 0 {
                break;
            }
        }
        self.push(&digits[first..]);
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &[u8] = b"7f00a000-7f00c000 r--s 00001000 fe:00 1234    /db/a b/000007.table";

    #[test]
    fn the_file_and_offset_of_an_address_are_found() {
        let (path, offset) = match_entry(ENTRY, 0x7f00_b010).unwrap();
        assert_eq!(path, b"/db/a b/000007.table");
        assert_eq!(offset, 0x1000 + 0x1010);
    }

    #[test]
    fn other_lines_do_not_match() {
        assert!(match_entry(ENTRY, 0x7f00_c000).is_none());
        assert!(match_entry(b"7f00a000-7f00c000 rw-p 00000000 00:00 0 ", 0x7f00_a000).is_none());
        assert!(match_entry(b"", 0).is_none());
        assert!(match_entry(b"nonsense", 0).is_none());
    }

    #[test]
    fn lines_are_cut_not_overrun() {
        let mut line = Line::new();
        line.push(&[b'x'; 5000]);
        assert_eq!(line.as_bytes().len(), 4608);
        let mut number = Line::new();
        number.push_number(u64::MAX, 10);
        assert_eq!(number.as_bytes(), b"18446744073709551615");
    }

    #[test]
    fn our_own_maps_can_be_read() {
        let mut line = Line::new();
        assert!(push_file_at(main_address(), &mut line));
        assert!(line.as_bytes().starts_with(b"/"));
    }

    fn main_address() -> u64 {
        install as *const () as u64
    }
}
