//! A BPF array, mapped into memory.
//!
//! Reading it takes no system call, during which the kernel would run no kprobe program on the CPU
//! (`bpf_disable_instrumentation`). It is the only `unsafe` outside the programs.
#![expect(unsafe_code, reason = "memory that the kernel shares")]

use std::os::fd::AsFd as _;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::{io, slice};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The values of the array in order, as words of eight bytes in native byte order.
#[derive(Debug)]
pub(super) struct Mapped {
    start: NonNull<AtomicU64>,
    words: usize,
    /// Held open for programs that are loaded later.
    _array: MapData,
}

impl Mapped {
    /// Maps the array, which must be `BPF_F_MMAPABLE` and have at least so many words (`array_map_mmap`, 5.5 and later).
    pub(super) fn of(array: MapData, words: usize) -> io::Result<Self> {
        let (bytes, access) = (words * size_of::<AtomicU64>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the address, so that nothing else of this process is there.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, array.fd().as_fd(), 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words, _array: array })
    }

    /// The words. The programs write to them, but not to a word that this side writes at the time.
    pub(super) const fn words(&self) -> &[AtomicU64] {
        // SAFETY: the memory was mapped with this size, at the beginning of a page, until `self` is dropped. Every bit pattern
        // is a number, and this side changes it through atomics only.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let bytes = self.words * size_of::<AtomicU64>();
        // SAFETY: it was mapped with this size, and no reference to it outlives `self`.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), bytes) } {
            tracing::debug!("unmapping an array: {error}");
        }
    }
}

// SAFETY: the memory belongs to the process, which reads and writes it through atomics only.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}
