//! The BTF format, as far as whyrst asks for it. The bytes stay as they are; one pass notes where each type begins and chains
//! those that can be looked up by name. Pure: bytes in, answers out. It reads any bytes: what points nowhere is absent.
//!
//! The format is described in the kernel's Documentation/bpf/btf.rst and include/uapi/linux/btf.h.

use std::sync::Arc;

/// `BTF_MAGIC`, in the byte order of the machine that wrote it.
const MAGIC: u16 = 0xeb9f;
/// The only version there is.
const VERSION: u8 = 1;
/// Length of the part of the header that every version has.
const HEADER: usize = 24;
/// Length of `struct btf_type`.
const TYPE: usize = 12;
/// Chains of names, as a power of two: the image has some 100,000 names.
const CHAIN_BITS: u32 = 15;

/// Why bytes are no BTF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It does not begin as BTF of this machine does.
    #[error("it does not begin with the header of BTF in this machine's byte order")]
    Header,
    /// The header puts a section behind the end of the file.
    #[error("a section reaches beyond the end")]
    Section,
    /// A type is cut off.
    #[error("type {0} reaches beyond the end of its section")]
    Cut(u32),
    /// A type is of a kind that came later than this program; how long it is is not known.
    #[error("type {0} is of a kind that is not known: {1}")]
    Kind(u32, u32),
}

/// `BTF_KIND_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int = 1,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::Datasec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }

    /// How many bytes follow `struct btf_type`.
    const fn rest(self, entries: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => 12 * entries,
            Self::Enum | Self::FuncProto => 8 * entries,
            _ => 0,
        }
    }

    /// Whether anybody asks for types of this kind by name.
    const fn is_asked_for(self) -> bool {
        matches!(self, Self::Struct | Self::Union | Self::Enum | Self::Enum64 | Self::Func)
    }
}

/// A type: its fixed part, and where what follows is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Type<'a> {
    pub(super) kind: Kind,
    /// `kind_flag`: a union's forward declaration; a struct with bit fields.
    pub(super) flag: bool,
    name: u32,
    /// The size in bytes, or the number of a type.
    of: u32,
    rest: &'a [u8],
}

impl<'a> Type<'a> {
    /// The size in bytes of a struct or union.
    pub(super) const fn size(self) -> u32 {
        self.of
    }

    /// The type that this one points to, qualifies, names or returns; an array's element.
    pub(super) fn target(self) -> Option<u32> {
        match self.kind {
            Kind::Ptr
            | Kind::Typedef
            | Kind::Volatile
            | Kind::Const
            | Kind::Restrict
            | Kind::Func
            | Kind::FuncProto
            | Kind::Var
            | Kind::DeclTag
            | Kind::TypeTag => Some(self.of),
            Kind::Array => number(self.rest, 0),
            _ => None,
        }
    }

    /// Members of a struct or union: name, type, offset in bits.
    pub(super) fn members(self) -> impl Iterator<Item = (u32, u32, u32)> + use<'a> {
        let bit_fields = self.flag;
        self.entries(12, matches!(self.kind, Kind::Struct | Kind::Union)).filter_map(move |entry| {
            let offset = number(entry, 8)?;
            // With bit fields the upper eight bits are a field's width.
            let offset = if bit_fields { offset & 0x00ff_ffff } else { offset };
            Some((number(entry, 0)?, number(entry, 4)?, offset))
        })
    }

    /// Names and values of an enumeration of 32 bits; name and type of a prototype's parameters.
    pub(super) fn pairs(self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        self.entries(8, matches!(self.kind, Kind::Enum | Kind::FuncProto))
            .filter_map(|entry| Some((number(entry, 0)?, number(entry, 4)?)))
    }

    fn entries(self, length: usize, any: bool) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = if any { self.rest } else { &[] };
        bytes.chunks_exact(length)
    }
}

/// One BTF object, alone or on top of another one.
#[derive(Debug)]
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// Where names are.
    strings: std::ops::Range<usize>,
    /// Where each type begins.
    types: Vec<u32>,
    /// The first type of each chain, and the next one after each; `NONE` ends it.
    heads: Vec<u32>,
    next: Vec<u32>,
    base: Option<Arc<Self>>,
    /// The number of the first type, and of the first byte of names: they go on where the base's end.
    first_type: u32,
    first_string: u32,
}

const NONE: u32 = u32::MAX;

impl Btf {
    /// Reads BTF; `base` is what it refers to.
    pub(super) fn parse(bytes: Vec<u8>, base: Option<Arc<Self>>) -> Result<Self, FormatError> {
        let header = bytes.get(..HEADER).ok_or(FormatError::Header)?;
        if u16::from_ne_bytes([header[0], header[1]]) != MAGIC || header[2] != VERSION {
            return Err(FormatError::Header);
        }
        let section = |at: usize| -> Option<std::ops::Range<usize>> {
            let word = |at| number(header, at).and_then(|word| usize::try_from(word).ok());
            let start = word(4)?.checked_add(word(at)?)?;
            let range = start..start.checked_add(word(at + 4)?)?;
            (range.end <= bytes.len()).then_some(range)
        };
        let (types, strings) = section(8).zip(section(16)).ok_or(FormatError::Section)?;
        // A type's number is the kernel's u32; nothing of that size is ever read.
        let beyond = |length: usize| u32::try_from(length).map_err(|_too_large| FormatError::Section);
        beyond(bytes.len())?;
        let (first_type, first_string) = match &base {
            Some(base) => (
                base.first_type.saturating_add(beyond(base.types.len())?),
                base.first_string.saturating_add(beyond(base.strings.len())?),
            ),
            None => (1, 0),
        };
        let starts = starts(&bytes[..types.end], types.start, first_type)?;
        let mut btf =
            Self { bytes, strings, types: starts, heads: Vec::new(), next: Vec::new(), base, first_type, first_string };
        btf.chain();
        Ok(btf)
    }

    /// Chains the types that are asked for by name, those with lower numbers first.
    fn chain(&mut self) {
        let mut heads = vec![NONE; 1 << CHAIN_BITS];
        let mut next = vec![NONE; self.types.len()];
        for index in (0..self.types.len()).rev() {
            let at = self.types[index] as usize;
            let (Some(name), Some(info)) = (number(&self.bytes, at), number(&self.bytes, at + 4)) else { continue };
            if !kind(info).is_some_and(Kind::is_asked_for) {
                continue;
            }
            // A module's type may have a name out of the image's: what it spells decides.
            let Some(bytes) = self.bytes_at(name) else { continue };
            let head = &mut heads[chain_of(bytes)];
            next[index] = *head;
            *head = index as u32;
        }
        (self.heads, self.next) = (heads, next);
    }

    /// The type with a number.
    pub(super) fn by_number(&self, id: u32) -> Option<Type<'_>> {
        let Some(index) = id.checked_sub(self.first_type) else { return self.base.as_ref()?.by_number(id) };
        let at = *self.types.get(usize::try_from(index).ok()?)? as usize;
        let info = number(&self.bytes, at + 4)?;
        let kind = kind(info)?;
        let rest = self.bytes.get(at + TYPE..)?.get(..kind.rest(entries(info)))?;
        Some(Type {
            kind,
            flag: info >> 31 == 1,
            name: number(&self.bytes, at)?,
            of: number(&self.bytes, at + 8)?,
            rest,
        })
    }

    /// The structs, unions, enumerations and functions of a name: its own before the base's, lower numbers first.
    pub(super) fn by_name<'n, 's: 'n>(&'s self, name: &'n str) -> Box<dyn Iterator<Item = Type<'s>> + 'n> {
        let head = self.heads.get(chain_of(name.as_bytes())).copied();
        let chain = std::iter::successors(head.filter(|index| *index != NONE), |index| {
            self.next.get(*index as usize).copied().filter(|next| *next != NONE)
        });
        let own = chain
            .filter_map(|index| self.by_number(self.first_type.checked_add(index)?))
            .filter(move |found| self.string(found.name) == Some(name));
        match &self.base {
            Some(base) => Box::new(own.chain(base.by_name(name))),
            None => Box::new(own),
        }
    }

    /// A type's name; empty for what has none.
    pub(super) fn name(&self, of: Type<'_>) -> &str {
        self.string(of.name).unwrap_or_default()
    }

    /// The name at an offset.
    pub(super) fn string(&self, offset: u32) -> Option<&str> {
        let bytes = self.bytes_at(offset)?;
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(&bytes[..end]).ok()
    }

    /// The bytes from a name on, to the end of all names.
    fn bytes_at(&self, offset: u32) -> Option<&[u8]> {
        let Some(own) = offset.checked_sub(self.first_string) else { return self.base.as_ref()?.bytes_at(offset) };
        let start = self.strings.start.checked_add(usize::try_from(own).ok()?)?;
        self.bytes.get(start..self.strings.end)
    }
}

/// Where each type begins.
fn starts(bytes: &[u8], from: usize, first_type: u32) -> Result<Vec<u32>, FormatError> {
    // A type takes 20 bytes or more on average; growing once is cheaper than counting first.
    let mut starts = Vec::with_capacity((bytes.len() - from) / 20);
    let mut at = from;
    while at < bytes.len() {
        let id = first_type.saturating_add(starts.len() as u32);
        let info = number(bytes, at + 4).ok_or(FormatError::Cut(id))?;
        let kind = kind(info).ok_or(FormatError::Kind(id, kind_number(info)))?;
        starts.push(at as u32);
        at += TYPE + kind.rest(entries(info));
        if at > bytes.len() {
            return Err(FormatError::Cut(id));
        }
    }
    Ok(starts)
}

const fn kind_number(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn kind(info: u32) -> Option<Kind> {
    Kind::from_number(kind_number(info))
}

const fn entries(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// The number at an offset.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}

/// The chain of a name: by its first eight bytes, which are at hand without looking for its end.
fn chain_of(name: &[u8]) -> usize {
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(name.iter().take_while(|byte| **byte != 0)) {
        *to = *from;
    }
    // Fibonacci hashing: the upper bits of a product with the golden ratio.
    (u64::from_le_bytes(first).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - CHAIN_BITS)) as usize
}
