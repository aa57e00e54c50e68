//! Reads the kernel: arguments, memory by address, and the offsets that the loader resolved from BTF.
//!
//! All other `unsafe` of the programs is for maps and helpers without addresses. A read of a wrong address is not undefined
//! behaviour: `bpf_probe_read_kernel` checks the address and fails.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext, RetProbeContext, SkBuffContext};
use tracer_common::Layout;
use tracer_common::layout::ABSENT;

/// Offsets of the running kernel's fields; the loader overwrites them.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Layout = Layout::UNKNOWN;

/// Addresses of the kernel variables `vmemmap_base` and `page_offset_base` (x86-64), or 0; the loader overwrites them.
///
/// On arm64 both are constants of the kernel's build. Neither BTF nor a symbol has them, and they differ between versions
/// (`VMEMMAP_START`, 5.10 to 6.9).
#[unsafe(no_mangle)]
pub(crate) static PAGE_BASES: [u64; 2] = [0; 2];

/// The offset of a field, as the loader set it.
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: a field of a static is valid and aligned. The read is volatile because the loader replaces the bytes
        // after compilation.
        unsafe { ::core::ptr::read_volatile(&raw const crate::kernel::LAYOUT.$field) }
    }};
}
pub(crate) use offset;

/// Whether a read failed: zero where none did. Failures add up.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Failed(u64);

impl Failed {
    /// No read failed.
    pub(crate) const NO: Self = Self(0);
    /// A read failed.
    pub(crate) const YES: Self = Self(1);

    /// Both.
    #[inline(always)]
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a read failed.
    #[inline(always)]
    pub(crate) fn any(self) -> bool {
        self.0 != 0
    }
}

/// An address in kernel memory, or an integer argument.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address(u64);

impl Address {
    /// The address 0.
    pub(crate) const NULL: Self = Self(0);

    /// Whether it is 0.
    #[inline(always)]
    pub(crate) fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The number itself.
    #[inline(always)]
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// The lowest eight bits, for an argument of type `u8` or a small `int`.
    #[inline(always)]
    pub(crate) fn low_byte(self) -> u8 {
        self.0 as u8
    }

    /// The `sk_buff` of a socket filter, which is its context.
    ///
    /// The verifier rewrites accesses through a pointer to the context. This address goes to a helper only, which takes it as
    /// a plain number.
    #[inline(always)]
    pub(crate) fn of_buffer(ctx: &SkBuffContext) -> Self {
        Self(ctx.as_ptr() as u64)
    }

    /// The `n`th argument of a raw tracepoint.
    #[inline(always)]
    pub(crate) fn of_tracepoint(ctx: &RawTracePointContext, n: usize) -> Self {
        Self(ctx.arg::<u64>(n))
    }

    /// An address out of a map.
    #[inline(always)]
    pub(crate) fn kept(number: u64) -> Self {
        Self(number)
    }

    /// This many bytes further.
    #[inline(always)]
    pub(crate) fn plus(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The address without the low bits of `mask`, for pointers that carry flags there.
    #[inline(always)]
    pub(crate) fn without(self, mask: u64) -> Self {
        Self(self.0 & !mask)
    }

    /// Reads a `T` from `offset` bytes further into `to` and returns whether it failed; `to` is zero then.
    ///
    /// Its only branch is on `offset`, which the verifier knows. A program of such reads has one path for the verifier; a
    /// program that tests each read has one path for each combination of results.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32, to: &mut T) -> Failed {
        if offset == ABSENT {
            return Failed(1);
        }
        let from = self.plus(u64::from(offset)).0 as *const c_void;
        // SAFETY: the size given is that of `to`; the helper checks the source, and zeroes `to` where it cannot read it.
        // Every `T` read here is an integer or an array of bytes.
        let status = unsafe { bpf_probe_read_kernel(ptr::from_mut(to).cast(), size_of::<T>() as u32, from) };
        Failed(status.cast_unsigned())
    }

    /// Reads a `T` from `offset` bytes further; zero where it cannot be read.
    #[inline(always)]
    pub(crate) fn read<T: Copy + Default>(self, offset: u32) -> T {
        let mut value = T::default();
        let _zero = self.load(offset, &mut value);
        value
    }

    /// Reads a pointer from `offset` bytes further; [`Address::NULL`] where it cannot be read.
    #[inline(always)]
    pub(crate) fn follow(self, offset: u32) -> Self {
        Self(self.read::<u64>(offset))
    }

    /// Copies `len` bytes, at most 63, and returns the number of bytes copied.
    #[inline(always)]
    pub(crate) fn copy(self, to: &mut [u8; 64], len: u32) -> u8 {
        let len = opaque(len) & 63;
        // SAFETY: `len` is less than the size of `to`, and the helper checks the source.
        let status = unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), len, self.0 as *const c_void) };
        if status == 0 { len as u8 } else { 0 }
    }

    /// Copies an address of `len` bytes, 4 or 16; `to` does not change where that fails.
    #[inline(always)]
    pub(crate) fn copy_address(self, to: &mut [u8; 16], len: u32) {
        let len = opaque(len) & 31;
        if len > 16 {
            return;
        }
        // SAFETY: `len` is not more than the size of `to`, and the helper checks the source.
        let _zero = unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), len, self.0 as *const c_void) };
    }

    /// Copies a NUL-terminated string, cut at the size of `to`; returns whether the copy has any text.
    #[inline(always)]
    pub(crate) fn copy_text<const N: usize>(self, to: &mut [u8; N]) -> bool {
        // SAFETY: the size given is that of `to`, and the helper checks the source and terminates the copy.
        let status = unsafe { bpf_probe_read_kernel_str(to.as_mut_ptr().cast(), N as u32, self.0 as *const c_void) };
        status > 1
    }
}

/// The same number, hidden from the compiler.
///
/// The compiler drops a test of a length that it can prove, but the verifier needs the test.
#[inline(always)]
fn opaque(number: u32) -> u32 {
    let mut hidden = number;
    // SAFETY: `hidden` is a valid and aligned local variable.
    unsafe { ptr::write_volatile(&raw mut hidden, number) };
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const hidden) }
}

/// A byte of a packet, counted from its network header; 0 where the packet is shorter.
#[inline(always)]
pub(crate) fn packet_byte(ctx: &SkBuffContext, at: u32) -> u8 {
    const BPF_HDR_START_NET: u32 = 1;
    let mut byte = 0_u8;
    // SAFETY: the context is the one the program runs with, and the size given is that of `byte`.
    let status = unsafe { bpf_skb_load_bytes_relative(ctx.as_ptr(), at, (&raw mut byte).cast(), 1, BPF_HDR_START_NET) };
    if status == 0 { byte } else { 0 }
}

/// Reads members of the registers that the kernel passed to the program.
///
/// All are read at once and as volatile: otherwise the compiler may compute the address of a register from a condition,
/// which the verifier does not allow for the context.
macro_rules! registers {
    ($context:expr, $([$($member:tt)+])+) => {{
        let regs = $context.regs;
        [$({
            // SAFETY: `regs` is the context that the kernel passed to the program.
            let register = unsafe { &raw const (*regs).$($member)+ };
            // SAFETY: as above.
            unsafe { ptr::read_volatile(register) }
        }),+]
    }};
}

/// The arguments of the hooked function, its return address and its stack pointer, at its entry.
pub(crate) struct Arguments {
    /// The first six, which x86-64 and arm64 both pass in registers.
    pub(crate) registers: [Address; 6],
    /// The seventh and eighth, which arm64 passes in registers too (AAPCS64 6.8.2).
    #[cfg(bpf_target_arch = "aarch64")]
    further: [Address; 2],
    /// The link register.
    #[cfg(bpf_target_arch = "aarch64")]
    link: Address,
    stack: Address,
}

#[cfg(bpf_target_arch = "x86_64")]
impl Arguments {
    /// Reads the registers.
    #[inline(always)]
    pub(crate) fn new(ctx: &ProbeContext) -> Self {
        let [stack] = registers!(ctx, [rsp]).map(Address);
        Self { registers: registers!(ctx, [rdi][rsi][rdx][rcx][r8][r9]).map(Address), stack }
    }

    /// The `n`th argument behind the first six, from 0; at most 1.
    ///
    /// At function entry the stack pointer is at the return address; the arguments follow.
    #[inline(always)]
    pub(crate) fn further(&self, n: u32) -> Address {
        self.stack.follow(8 + 8 * n)
    }

    /// The return address.
    #[inline(always)]
    pub(crate) fn return_address(&self) -> Address {
        self.stack.follow(0)
    }
}

#[cfg(bpf_target_arch = "aarch64")]
impl Arguments {
    /// Reads the registers.
    #[inline(always)]
    pub(crate) fn new(ctx: &ProbeContext) -> Self {
        let [link, stack] = registers!(ctx, [regs[30]][sp]).map(Address);
        Self {
            registers: registers!(ctx, [regs[0]][regs[1]][regs[2]][regs[3]][regs[4]][regs[5]]).map(Address),
            further: registers!(ctx, [regs[6]][regs[7]]).map(Address),
            link,
            stack,
        }
    }

    /// The `n`th argument behind the first six, from 0; at most 1.
    #[inline(always)]
    pub(crate) fn further(&self, n: u32) -> Address {
        if n == 0 { self.further[0] } else { self.further[1] }
    }

    /// The return address. At the function's entry the link register is not signed yet.
    #[inline(always)]
    pub(crate) fn return_address(&self) -> Address {
        self.link
    }
}

impl Arguments {
    /// The stack pointer at the function's entry.
    #[inline(always)]
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.stack.0
    }
}

/// The stack pointer that a function had at its entry, after its return has popped the return address.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn stack_of_caller(ctx: &RetProbeContext) -> u64 {
    let [stack] = registers!(ctx, [rsp]);
    stack.wrapping_sub(8)
}

/// The stack pointer that a function had at its entry, after its return; the return address is not on the stack.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn stack_of_caller(ctx: &RetProbeContext) -> u64 {
    let [stack] = registers!(ctx, [sp]);
    stack
}

/// Whether the memory at an address starts with two bytes of printable ASCII, as every format string does.
#[inline(always)]
pub(crate) fn starts_with_text(address: Address) -> bool {
    let printable = |byte: u16| (0x20..0x7f).contains(&byte);
    let bytes = address.read::<u16>(0);
    printable(bytes & 0xff) && printable(bytes >> 8)
}

/// The linear-map address of a page's first byte (x86-64: `page_offset_base + (page - vmemmap_base) / size << 12`), or
/// null where the bases are not known.
#[inline(always)]
pub(crate) fn page_address(page: Address, page_struct_size: u32) -> Address {
    // SAFETY: elements of a static array are valid and aligned; volatile because the loader replaces the bytes.
    let vmemmap = unsafe { ptr::read_volatile(&raw const PAGE_BASES[0]) };
    // SAFETY: as above.
    let page_offset = unsafe { ptr::read_volatile(&raw const PAGE_BASES[1]) };
    let (vmemmap, page_offset) = (Address(vmemmap).follow(0), Address(page_offset).follow(0));
    if vmemmap.is_null() || page_offset.is_null() || page_struct_size == 0 {
        return Address::NULL;
    }
    let frame = page.0.wrapping_sub(vmemmap.0) / u64::from(page_struct_size);
    page_offset.plus(frame << 12)
}

/// For the panic handler: the verifier rejects an endless loop, which proves that the programs do not panic.
#[cfg(target_arch = "bpf")]
pub(crate) fn unreachable() -> ! {
    loop {}
}
