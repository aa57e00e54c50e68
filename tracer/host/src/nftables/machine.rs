//! The registers of a rule's program, for the reader of whole rulesets: what each holds, in which byte order, masked and turned
//! over by what.

use std::collections::BTreeMap;

use tracer_model::ruleset::Key;
use tracer_model::ruleset::tables::Field;

/// Bytes of all registers.
const ALL: usize = 64;

/// Bytes of a packet in a register: `(bytes & mask) ^ xor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loaded {
    /// What they are.
    pub(super) key: Key,
    /// The words of nft for them, where [`Key::words`] says less.
    pub(super) name: Option<String>,
    /// How many there are.
    pub(super) length: usize,
    /// In the byte order of the register; empty for none.
    pub(super) mask: Vec<u8>,
    /// Likewise.
    pub(super) xor: Vec<u8>,
    /// Whether they are in the byte order of the host, where [`Key`] has them in network byte order.
    pub(super) native: bool,
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Held {
    /// Bytes of the packet.
    Bytes(Loaded),
    /// Bytes that the rule itself has.
    Constant(Vec<u8>),
    /// The interface of the route back to the source, or whether there is one: zero for none.
    Route {
        /// The words of nft for it.
        name: String,
        /// Whether it is one byte, 1 where there is such a route.
        present: bool,
    },
    /// Something that no test can express.
    Lost(Lost),
}

/// Something that is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// The words of nft for it.
    pub(super) name: String,
    /// How many bytes.
    pub(super) length: usize,
    /// Whether packets that are alike differ in it: chance, the time of day.
    pub(super) varies: bool,
    /// Whether it is a number in the byte order of the host.
    pub(super) native: bool,
    /// The numbers that it can be.
    pub(super) numbers: Option<Numbers>,
}

/// Numbers of four bytes that `numgen` or a hash may give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    /// The first.
    pub(super) first: u32,
    /// How many.
    pub(super) count: u32,
    /// Whether they are in the byte order of the host.
    pub(super) native: bool,
}

impl Loaded {
    pub(super) const fn new(key: Key, length: usize) -> Self {
        Self { key, name: None, length, mask: Vec::new(), xor: Vec::new(), native: false }
    }

    /// A number, as the kernel has it.
    pub(super) fn native(key: Key, length: usize) -> Self {
        Self { native: true, ..Self::new(key, length) }
    }

    pub(super) fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// With one more mask: `(bytes & mask) ^ xor`.
    fn masked(self, mask: &[u8], xor: &[u8]) -> Self {
        let length = mask.len();
        let all = |bytes: &[u8], fill: u8| -> Vec<u8> {
            let rest = std::iter::repeat(&fill);
            bytes.iter().chain(rest).take(length).copied().collect()
        };
        let before = all(&self.mask, 0xff);
        let turned = combine(&combine(&all(&self.xor, 0), mask, |a, b| a & b), xor, |a, b| a ^ b);
        Self { length, mask: combine(&before, mask, |a, b| a & b), xor: turned, ..self }
    }

    /// Whether bits are turned over.
    pub(super) fn is_turned(&self) -> bool {
        self.xor.iter().any(|byte| *byte != 0)
    }

    /// It as a field of what is looked up; none where bits are turned over.
    pub(super) fn field(&self) -> Option<Field> {
        let mask = if self.native { swapped(&self.mask) } else { self.mask.clone() };
        let mask = if mask.iter().all(|byte| *byte == 0xff) { Vec::new() } else { mask };
        (!self.is_turned()).then_some(Field { key: self.key, length: self.length, mask, native: self.native })
    }
}

impl Lost {
    /// Something of which nothing is understood.
    pub(super) fn new(name: impl Into<String>, length: usize) -> Self {
        Self { name: name.into(), length, varies: false, native: false, numbers: None }
    }

    /// A number in the byte order of the host.
    pub(super) fn number(name: impl Into<String>, length: usize) -> Self {
        Self { native: true, ..Self::new(name, length) }
    }

    /// Something in which packets that are alike differ.
    pub(super) fn varying(name: impl Into<String>, length: usize) -> Self {
        Self { varies: true, ..Self::new(name, length) }
    }
}

impl Held {
    fn length(&self) -> usize {
        match self {
            Self::Bytes(loaded) => loaded.length,
            Self::Constant(bytes) => bytes.len(),
            Self::Route { .. } => 4,
            Self::Lost(lost) => lost.length,
        }
    }
}

/// Bytes in the other of the two byte orders, network and host, where these differ.
pub(super) fn swapped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if cfg!(target_endian = "little") {
        bytes.reverse();
    }
    bytes
}

fn combine(one: &[u8], other: &[u8], with: fn(u8, u8) -> u8) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| with(*one, *other)).collect()
}

/// Registers by their first four bytes: `NFT_REG_1` to `NFT_REG_4` have 16, `NFT_REG32_00` to `NFT_REG32_15` four.
#[derive(Debug, Default)]
pub(super) struct Machine(BTreeMap<usize, Held>);

impl Machine {
    fn unit(register: u32) -> Option<usize> {
        let unit = match register {
            1..=4 => (register - 1) * 4,
            8..=23 => register - 8,
            _ => return None,
        };
        usize::try_from(unit).ok()
    }

    /// Loads something, which overwrites what was in these registers.
    pub(super) fn load(&mut self, register: u32, held: Held) {
        let units = |held: &Held| held.length().div_ceil(4).max(1);
        let Some(unit) = Self::unit(register) else { return self.clear() };
        let end = unit + units(&held);
        self.0.retain(|first, known| first + units(known) <= unit || *first >= end);
        if held.length() <= ALL {
            self.0.insert(unit, held);
        }
    }

    /// Nothing is known any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What a register holds.
    pub(super) fn get(&self, register: u32) -> Option<&Held> {
        self.0.get(&Self::unit(register)?)
    }

    /// The bytes in a register, where the rule itself put them there.
    pub(super) fn constant(&self, register: u32) -> Option<Vec<u8>> {
        match self.get(register)? {
            Held::Constant(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// What so many bytes from a register on hold, each with its length; what is not known has the rest.
    pub(super) fn span(&self, register: u32, length: usize) -> Vec<Held> {
        let Some(mut unit) = Self::unit(register) else { return Vec::new() };
        let (mut rest, mut found) = (length, Vec::new());
        while rest > 0 {
            match self.0.get(&unit) {
                Some(held) if (1..=rest).contains(&held.length()) => {
                    let filled = held.length().next_multiple_of(4);
                    unit += filled / 4;
                    rest = rest.saturating_sub(filled);
                    found.push(held.clone());
                }
                // A set may have shorter keys than what is loaded: the beginning of a name.
                Some(Held::Bytes(loaded)) if loaded.length > rest && !loaded.native => {
                    let cut = |bytes: &[u8]| bytes.get(..rest).unwrap_or(bytes).to_vec();
                    let (mask, xor) = (cut(&loaded.mask), cut(&loaded.xor));
                    found.push(Held::Bytes(Loaded { length: rest, mask, xor, ..loaded.clone() }));
                    rest = 0;
                }
                _ => {
                    found.push(Held::Lost(Lost::new("[register]", rest)));
                    rest = 0;
                }
            }
        }
        found
    }

    /// `bitwise` with a mask and bits to turn over.
    pub(super) fn mask(&mut self, from: u32, to: u32, mask: &[u8], xor: &[u8]) {
        let held = match self.get(from) {
            Some(Held::Bytes(loaded))
                if xor.len() == mask.len()
                    && (mask.len() == loaded.length || (mask.len() < loaded.length && !loaded.native)) =>
            {
                Held::Bytes(loaded.clone().masked(mask, xor))
            }
            Some(Held::Constant(bytes)) if bytes.len() == mask.len() && xor.len() == mask.len() => {
                Held::Constant(combine(&combine(bytes, mask, |a, b| a & b), xor, |a, b| a ^ b))
            }
            Some(Held::Lost(lost)) => Held::Lost(Lost { length: mask.len(), numbers: None, ..lost.clone() }),
            Some(Held::Route { name, .. }) => Held::Lost(Lost::new(format!("{name} & …"), mask.len())),
            _ => Held::Lost(Lost::new("[bitwise]", mask.len())),
        };
        self.load(to, held);
    }

    /// `byteorder`: each word of `size` bytes is turned round where the host is little-endian.
    pub(super) fn turn(&mut self, from: u32, to: u32, length: usize, size: usize) {
        let held = match self.get(from).cloned() {
            Some(Held::Bytes(loaded)) if loaded.length == size && length == size && loaded.key != Key::State => {
                let (mask, xor) = (swapped(&loaded.mask), swapped(&loaded.xor));
                Held::Bytes(Loaded { mask, xor, native: !loaded.native, ..loaded })
            }
            Some(Held::Constant(bytes)) if size > 0 && bytes.len() == length && length.is_multiple_of(size) => {
                Held::Constant(bytes.chunks(size).flat_map(swapped).collect())
            }
            Some(Held::Lost(lost)) => {
                let numbers = lost.numbers.map(|numbers| Numbers { native: !numbers.native, ..numbers });
                Held::Lost(Lost { numbers, native: !lost.native, ..lost })
            }
            Some(route @ Held::Route { .. }) => route,
            _ => Held::Lost(Lost::new("[byteorder]", length)),
        };
        self.load(to, held);
    }
}
