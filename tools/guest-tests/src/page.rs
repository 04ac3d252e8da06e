// SPDX-License-Identifier: GPL-2.0

//! A page of memory that comes when the test says so: of a file that this program serves by FUSE. Whoever touches it before
//! waits, in whatever system call that happens, and with whatever it holds. Users without privileges can do the same.
//!
//! Wire format: include/uapi/linux/fuse.h.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{ensure, Context, Result};

/// Bytes of a page.
pub const SIZE: usize = 4096;

const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
/// The requests that have no answer: FORGET, INTERRUPT, BATCH_FORGET.
const SILENT: [u32; 3] = [2, 36, 42];

/// Reads are asynchronous, so that a process can be killed that waits for one.
const ASYNC_READ: u32 = 1;

/// A file of one page, mounted alone. Dropped, it delivers the page first.
pub struct Page {
    path: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

struct Shared {
    device: File,
    content: [u8; SIZE],
    state: Mutex<State>,
    asked: Condvar,
    closing: AtomicBool,
}

#[derive(Default)]
struct State {
    delivered: bool,
    /// Requests for the page that have no answer yet, by their numbers.
    waiting: Vec<u64>,
}

impl Page {
    /// One that begins with `start`, then has zeroes.
    pub fn new(start: &[u8]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new("/run").join(format!("dc-page-{number}"));
        let mut content = [0; SIZE];
        content[..start.len()].copy_from_slice(start);
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("/dev/fuse")?;
        File::create(&path)?;
        let options = format!(
            "fd={},rootmode=100666,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        mount(&path, &options)?;
        let shared = Arc::new(Shared {
            device,
            content,
            state: Mutex::default(),
            asked: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let server = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.serve()
        });
        Ok(Self {
            path,
            shared,
            server: Some(server),
        })
    }

    /// Maps the page, without touching it, for reading and writing: what is written stays with this process.
    pub fn map(&self) -> Result<*mut u8> {
        let file = File::open(&self.path).with_context(|| self.path.display().to_string())?;
        // SAFETY: A new mapping, where the kernel likes it.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        ensure!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            io::Error::last_os_error()
        );
        Ok(at.cast())
    }

    /// Waits until somebody waits for the page; false if nobody did in `limit`.
    pub fn wait_until_asked(&self, limit: Duration) -> bool {
        let state = self.shared.lock();
        let (_state, outcome) = self
            .shared
            .asked
            .wait_timeout_while(state, limit, |state| state.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        !outcome.timed_out()
    }

    /// Gives it to all who wait, and who will ask.
    pub fn deliver(&self) {
        let mut state = self.shared.lock();
        state.delivered = true;
        for unique in state.waiting.drain(..) {
            self.shared.answer(unique, 0, &self.shared.content);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.deliver();
        if let Ok(path) = CString::new(self.path.as_os_str().as_encoded_bytes()) {
            // SAFETY: A C string.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_file(&self.path);
        self.shared.closing.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn mount(path: &Path, options: &str) -> Result<()> {
    let target = CString::new(path.as_os_str().as_encoded_bytes())?;
    let options = CString::new(options)?;
    // SAFETY: C strings.
    let status = unsafe {
        libc::mount(
            c"dc-test".as_ptr(),
            target.as_ptr(),
            c"fuse".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    ensure!(
        status == 0,
        "mounting FUSE at {}: {}",
        path.display(),
        io::Error::last_os_error()
    );
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers requests until the page is dropped, or nobody has it open or mounted.
    fn serve(&self) {
        let mut request = vec![0; 1 << 17];
        while !self.closing.load(Ordering::Relaxed) {
            let mut poll = libc::pollfd {
                fd: self.device.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: One pollfd.
            if unsafe { libc::poll(&mut poll, 1, 20) } <= 0 {
                continue;
            }
            match (&self.device).read(&mut request) {
                Ok(length) => self.take(&request[..length]),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                // A request that was taken back, or a signal.
                Err(_) => {}
            }
        }
    }

    fn take(&self, request: &[u8]) {
        let word = |at: usize| request[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        let unique = request[8..16].try_into().map_or(0, u64::from_ne_bytes);
        match word(4) {
            INIT => {
                // struct fuse_init_out
                let mut answer = [0; 64];
                let words = [7, 31, SIZE as u32, ASYNC_READ, 0, SIZE as u32];
                for (at, word) in answer.chunks_mut(4).zip(words) {
                    at.copy_from_slice(&u32::to_ne_bytes(word));
                }
                self.answer(unique, 0, &answer);
            }
            GETATTR => {
                // struct fuse_attr_out: good for an hour; inode 1, its size; mode and links
                let mut answer = [0; 104];
                let mut put = |at: usize, value: u32| {
                    answer[at..at + 4].copy_from_slice(&value.to_ne_bytes());
                };
                put(0, 3600);
                put(16, 1);
                put(24, SIZE as u32);
                put(76, libc::S_IFREG | 0o666);
                put(80, 1);
                self.answer(unique, 0, &answer);
            }
            OPEN => {
                // struct fuse_open_out: FOPEN_KEEP_CACHE, or the second to open it would wait for the page.
                let mut answer = [0; 16];
                answer[8] = 2;
                self.answer(unique, 0, &answer);
            }
            READ => {
                let mut state = self.lock();
                if state.delivered {
                    self.answer(unique, 0, &self.content);
                } else {
                    state.waiting.push(unique);
                    self.asked.notify_all();
                }
            }
            FLUSH | RELEASE => self.answer(unique, 0, &[]),
            opcode if SILENT.contains(&opcode) => {}
            _ => self.answer(unique, -libc::ENOSYS, &[]),
        }
    }

    /// A failure means that nobody waits for the answer anymore.
    fn answer(&self, unique: u64, error: i32, body: &[u8]) {
        let length = 16 + body.len();
        let mut answer = Vec::with_capacity(length);
        answer.extend((length as u32).to_ne_bytes());
        answer.extend(error.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(body);
        let _ = (&self.device).write(&answer);
    }
}
