//! The kernel's log message: the format string of a variadic log function and its arguments.

use tracer_common::wire::{ARGS, Record, present};

use crate::kernel::{Address, Failed, offset};

/// `"%pV"` and its NUL, as a little-endian number.
const NESTED: u32 = u32::from_le_bytes(*b"%pV\0");

/// A call of a variadic log function.
pub(crate) struct LogCall {
    /// The format string.
    format: Address,
    /// The first arguments behind it, as passed in registers or on the stack.
    values: [Address; ARGS],
    /// The message came in a `va_format`.
    nested: bool,
}

impl LogCall {
    /// A call with these arguments.
    #[inline(always)]
    pub(crate) fn new(format: Address, values: [Address; ARGS]) -> Self {
        Self { format, values, nested: false }
    }

    /// Whether the format is `"%pV"`: the message is in a `va_format` that the first value points to.
    #[inline(always)]
    pub(crate) fn is_nested(&self) -> bool {
        self.format.read::<u32>(0) == NESTED
    }

    /// The call with format and arguments out of the `va_format`, if the message came in one.
    #[inline(always)]
    pub(crate) fn resolved(self) -> Self {
        if !self.is_nested() {
            return self;
        }
        let inner = self.values[0];
        let values = va_list(inner.follow(offset!(va_format_va)));
        Self { format: inner.follow(offset!(va_format_fmt)), values, nested: true }
    }

    /// A number that all calls with the same message share, from the addresses of the kernel's constant strings.
    #[inline(always)]
    pub(crate) fn class(&self) -> u32 {
        // In 5.10 the format of many messages is "%s", and the message is the value.
        const TEXT: u16 = u16::from_le_bytes(*b"%s");
        let other = u32::from(self.format.read::<u16>(0) ^ TEXT);
        // 1 where `other` is 0, without a branch.
        let is_text = ((other | other.wrapping_neg()) >> 31) ^ 1;
        let value = (self.values[0].number() as u32).wrapping_mul(is_text);
        (self.format.number() as u32).wrapping_add(value.rotate_left(16))
    }

    /// Writes format, string argument and numbers into a record.
    #[inline(always)]
    pub(crate) fn write(&self, to: &mut Record) -> Failed {
        if self.nested {
            to.present |= present::VA_FORMAT;
        }
        let (format, values) = (self.format, self.values);
        if !format.copy_text(&mut to.format) {
            return Failed::YES;
        }
        to.present |= present::TEXT;
        // User space finds in the format which argument is a string: here a loop over the format's bytes would cost the
        // verifier more than the rest of the program. Reading fails for an argument that is a number.
        let [first, second, third] = values;
        to.args = [first.number() as u32, second.number() as u32, third.number() as u32];
        if !first.copy_text(&mut to.text) && !second.copy_text(&mut to.text) {
            third.copy_text(&mut to.text);
        }
        Failed::NO
    }
}

/// The next three integer arguments of a `va_list`.
///
/// System V, x86-64: `{ u32 gp_offset; u32 fp_offset; void *overflow_arg_area; void *reg_save_area }`; no registers are
/// left when `gp_offset` reaches 48.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn va_list(list: Address) -> [Address; ARGS] {
    let overflow = list.follow(8);
    let saved = list.follow(16);
    match list.read::<u32>(0) {
        24 => [saved.follow(24), saved.follow(32), saved.follow(40)],
        32 => [saved.follow(32), saved.follow(40), overflow.follow(0)],
        40 => [saved.follow(40), overflow.follow(0), overflow.follow(8)],
        // Named arguments take all registers, as in `nf_tcp_log_invalid` of 6.1, which has six.
        _ => [overflow.follow(0), overflow.follow(8), overflow.follow(16)],
    }
}

/// The next three integer arguments of a `va_list`.
///
/// AAPCS64, appendix B: `{ void *__stack; void *__gr_top; void *__vr_top; int __gr_offs; int __vr_offs }`; `__gr_offs` is
/// negative while registers are left; they end at `__gr_top`.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn va_list(list: Address) -> [Address; ARGS] {
    let (stack, top) = (list.follow(0), list.follow(8));
    let used = list.read::<u32>(24).cast_signed();
    let used = i64::from(if used > 0 { 0 } else { used });
    let argument = |n: i64| {
        let at = used + 8 * n;
        let base = if at < 0 { top } else { stack };
        base.plus(at.cast_unsigned()).follow(0)
    };
    [argument(0), argument(1), argument(2)]
}
