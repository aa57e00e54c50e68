//! The registers of a rule's program: what each holds, as far as it is known.

use std::collections::BTreeMap;

use tracer_model::ruleset::Key;

use super::messages::NFTA_DATA_VALUE;
use crate::nfnetlink::{attribute, number};

/// What a register holds.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) key: Key,
    pub(super) length: usize,
    pub(super) mask: Vec<u8>,
    /// Its bytes, where the rule itself loads them.
    pub(super) constant: Option<Vec<u8>>,
}

impl Loaded {
    pub(super) const fn new(key: Key, length: usize) -> Self {
        Self { key, length, mask: Vec::new(), constant: None }
    }
}

/// Registers by their first four bytes: `NFT_REG_1` to `NFT_REG_4` have 16, `NFT_REG32_00` to `NFT_REG32_15` four.
#[derive(Debug, Default)]
pub(super) struct Registers(BTreeMap<u32, Loaded>);

/// Bytes that an unknown expression may load: what all registers have.
pub(super) const ALL: usize = 64;

impl Registers {
    fn unit(register: u32) -> Option<u32> {
        match register {
            1..=4 => Some((register - 1) * 4),
            8..=23 => Some(register - 8),
            _ => None,
        }
    }

    /// Loads something, which overwrites what was in these registers.
    pub(super) fn load(&mut self, register: u32, loaded: Loaded) {
        let units = |length: usize| u32::try_from(length.div_ceil(4)).unwrap_or(u32::MAX);
        let Some(unit) = Self::unit(register) else { return self.0.clear() };
        let end = unit.saturating_add(units(loaded.length));
        self.0.retain(|first, known| first.saturating_add(units(known.length)) <= unit || *first >= end);
        self.0.insert(unit, loaded);
    }

    /// Nothing is known any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Something that is not understood was loaded.
    pub(super) fn lose(&mut self, register: u32) {
        self.load(register, Loaded::new(Key::Unknown, ALL));
    }

    /// The bytes in a register, where the rule itself put them there.
    pub(super) fn constant(&self, register: u32) -> Option<&[u8]> {
        self.0.get(&Self::unit(register)?)?.constant.as_deref()
    }

    /// What a register holds, if that is known.
    pub(super) fn get(&self, register: u32) -> Option<&Loaded> {
        self.0.get(&Self::unit(register)?).filter(|loaded| loaded.key != Key::Unknown)
    }
}

/// `bitwise`: a mask on what a register holds.
pub(super) fn bitwise(data: &[u8], registers: &mut Registers) {
    const NFTA_BITWISE_SREG: u16 = 1;
    const NFTA_BITWISE_DREG: u16 = 2;
    const NFTA_BITWISE_MASK: u16 = 4;
    const NFTA_BITWISE_XOR: u16 = 5;
    const NFTA_BITWISE_OP: u16 = 6;
    /// Its name was `NFT_BITWISE_BOOL` before there were others.
    const NFT_BITWISE_MASK_XOR: u32 = 0;
    let field = |kind| attribute(data, kind).and_then(number);
    let value = |kind| attribute(data, kind).and_then(|data| attribute(data, NFTA_DATA_VALUE));
    let Some(register) = field(NFTA_BITWISE_DREG) else { return registers.clear() };
    let plain = field(NFTA_BITWISE_OP).unwrap_or(NFT_BITWISE_MASK_XOR) == NFT_BITWISE_MASK_XOR
        && value(NFTA_BITWISE_XOR).is_some_and(|xor| xor.iter().all(|byte| *byte == 0));
    let loaded = field(NFTA_BITWISE_SREG).and_then(|register| registers.get(register)).cloned();
    match (loaded, value(NFTA_BITWISE_MASK)) {
        (Some(loaded), Some(mask)) if plain && loaded.mask.is_empty() && mask.len() == loaded.length => {
            registers.load(register, Loaded { mask: mask.to_vec(), ..loaded });
        }
        _ => registers.lose(register),
    }
}
