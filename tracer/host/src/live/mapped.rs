//! A BPF array in this program's own memory.
//!
//! Reading it is no call of the kernel, which would run no kprobe program on the CPU meanwhile (`bpf_disable_instrumentation`).
//!
//! The only `unsafe` outside the programs themselves.
#![expect(unsafe_code, reason = "memory that the kernel shares")]

use std::os::fd::AsFd as _;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::{io, slice};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The array's values one behind the other, in words of eight bytes, native byte order.
#[derive(Debug)]
pub(super) struct Mapped {
    start: NonNull<AtomicU64>,
    words: usize,
    /// Programs that are loaded later are given its descriptor.
    _array: MapData,
}

impl Mapped {
    /// Maps the array, which the kernel must have made `BPF_F_MMAPABLE` and of at least that many words (`array_map_mmap`,
    /// 5.5 and later).
    pub(super) fn of(array: MapData, words: usize) -> io::Result<Self> {
        let (bytes, access) = (words * size_of::<AtomicU64>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: the kernel chooses the place, so that nothing else of this program is there.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, array.fd().as_fd(), 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, words, _array: array })
    }

    /// The words. The programs write to them, and to no place that is written here.
    pub(super) const fn words(&self) -> &[AtomicU64] {
        // SAFETY: the memory was mapped with this size, at the beginning of a page, and stays until this is dropped. Whatever
        // is in it is a number, and it is changed through atomics alone on this side.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let bytes = self.words * size_of::<AtomicU64>();
        // SAFETY: it was mapped with this size, and no reference to it outlives this.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), bytes) } {
            tracing::debug!("giving back a mapped array: {error}");
        }
    }
}

// SAFETY: the memory belongs to the process, and is read and written through atomics alone.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}
