// SPDX-License-Identifier: MIT

//! A guest handed to ufdd by ufd-protocol(7) alone: the standard library, and calls of libc.
//!
//!     rustc -O client.rs && ./client NAME SAVED-MEMORY
//!
//! Each byte of a memfd is compared with the file that it comes from: half of them at once, the
//! rest after a line of input. Kill ufdd meanwhile, and start it again: the guest waits, and goes on.

use std::fs::{File, OpenOptions};
use std::io::{stdin, Error, ErrorKind, Read, Result};
use std::os::raw::{c_char, c_int, c_uint, c_ulong, c_void};
use std::os::unix::fs::FileExt;
use std::os::unix::io::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::{env, ptr, slice, thread, time::Duration};

const PAGE: usize = 4096;
const USERFAULTFD_IOC_NEW: c_ulong = 0xaa00;
const UFFDIO_API: c_ulong = 0xc018_aa3f;

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
    fn mmap(at: *mut c_void, n: usize, prot: c_int, flags: c_int, fd: c_int, off: i64) -> *mut u8;
    fn sendmsg(fd: c_int, message: *const usize, flags: c_int) -> isize;
}

struct Guest {
    name: String,
    address: usize,
    length: usize,
    saved: File,
    backing: File,
    uffd: File,
}

fn checked(fd: c_int) -> Result<File> {
    // Nobody else has it.
    if fd < 0 { Err(Error::last_os_error()) } else { Ok(unsafe { File::from_raw_fd(fd) }) }
}

fn open_userfaultfd() -> Result<File> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/userfaultfd")?;
    let flags: c_int = 0o2000000 | 0o4000; // O_CLOEXEC, O_NONBLOCK
    let uffd = checked(unsafe { ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, flags) })?;
    for features in [0xb109u64, 0x1109] {
        let mut api = [0xaau64, features, 0];
        if unsafe { ioctl(uffd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) } == 0 {
            return Ok(uffd);
        }
    }
    Err(Error::last_os_error())
}

/// Each call has a connection of its own, which is there afterwards: its end is that of ufdd.
fn call(text: &str, fds: &[c_int]) -> Result<UnixStream> {
    let path = env::var("UFD_SOCKET").unwrap_or_else(|_| "/run/ufd/io.ufd.manager".into());
    let mut connection = UnixStream::connect(path)?;
    let text = format!("{}\0", text);
    // On a machine with addresses of 64 bits: struct cmsghdr with SOL_SOCKET, SCM_RIGHTS and the
    // fds, struct iovec, and struct msghdr.
    let (mut control, mut reply) = ([16 + 4 * fds.len() as i32, 0, 1, 1, 0, 0, 0, 0], Vec::new());
    control[4..4 + fds.len()].copy_from_slice(fds);
    let length = if fds.is_empty() { 0 } else { 32 };
    let piece = [text.as_ptr() as usize, text.len()];
    let message = [0, 0, piece.as_ptr() as usize, 1, control.as_ptr() as usize, length, 0];
    if unsafe { sendmsg(connection.as_raw_fd(), message.as_ptr(), 0) } < 0 {
        return Err(Error::last_os_error());
    }
    while reply.last() != Some(&0) {
        let mut bytes = [0; 4096];
        match connection.read(&mut bytes)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => reply.extend_from_slice(&bytes[..n]),
        }
    }
    let reply = String::from_utf8_lossy(&reply);
    // Within a string a quote has a backslash before it: this is a key.
    if reply.contains("\"error\":") {
        return Err(Error::new(ErrorKind::Other, format!("ufdd refuses: {}", reply)));
    }
    Ok(connection)
}

impl Guest {
    fn new(name: String, path: &str) -> Result<Guest> {
        let saved = File::open(path)?;
        let length = saved.metadata()?.len() as usize / PAGE * PAGE;
        let backing = checked(unsafe { memfd_create("ram\0".as_ptr() as *const c_char, 1) })?;
        backing.set_len(length as u64)?;
        // PROT_READ | PROT_WRITE, MAP_SHARED
        let ram = unsafe { mmap(ptr::null_mut(), length, 3, 1, backing.as_raw_fd(), 0) };
        Ok(Guest { name, address: ram as usize, length, saved, backing, uffd: open_userfaultfd()? })
    }

    fn attach(&self, populated: &str) -> Result<UnixStream> {
        let text = format!(
            r#"{{"method":"io.ufd.guest.Attach","parameters":{{"name":"{}","uffd":0,
            "regions":[{{"memory":"ram","address":{},"length_bytes":{},"backing_fd":1,
            "source":"file:","source_fd":2}}],
            "settings":{{"populated":"{}","background":false}}}}}}"#,
            self.name, self.address, self.length, populated
        );
        let fds = [&self.uffd, &self.backing, &self.saved].map(|file| file.as_raw_fd());
        call(&text, &fds)
    }

    /// Touches no paged memory. Nothing comes unasked: read() returns at the end of the connection.
    fn watch(&self, mut connection: UnixStream) {
        loop {
            let _ = connection.read(&mut [0]);
            eprintln!("ufdd is gone");
            connection = loop {
                thread::sleep(Duration::from_millis(100));
                match self.attach("keep") {
                    Ok(connection) => break connection,
                    Err(error) => eprintln!("{}", error),
                }
            };
            eprintln!("ufdd is back");
        }
    }
}

fn main() -> Result<()> {
    let mut words = env::args().skip(1);
    let (name, path) = (words.next().expect("NAME"), words.next().expect("SAVED-MEMORY"));
    let guest: &Guest = Box::leak(Box::new(Guest::new(name, &path)?));
    let connection = guest.attach("refuse")?;
    thread::spawn(move || guest.watch(connection));

    let mut page = [0; PAGE];
    for at in (0..guest.length).step_by(PAGE) {
        if at == guest.length / 2 / PAGE * PAGE {
            eprintln!("half is as saved; a line goes on");
            stdin().read_line(&mut String::new())?;
        }
        guest.saved.read_exact_at(&mut page, at as u64)?;
        let ram = unsafe { slice::from_raw_parts((guest.address + at) as *const u8, PAGE) };
        assert!(page == *ram, "the page at {} is wrong", at);
    }

    let text = r#"{"method":"io.ufd.guest.Detach","parameters":{"name":"NAME"}}"#;
    call(&text.replace("NAME", &guest.name), &[])?;
    println!("{} bytes are as saved", guest.length);
    Ok(())
}
