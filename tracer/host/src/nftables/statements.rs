//! Statements that end a rule, as nftables stores them: verdicts and translations.

use std::net::IpAddr;

use tracer_model::ruleset::audit::{Does, Translation, Verdict};

use super::registers::Registers;
use crate::nfnetlink::{attribute, number, string};

/// A verdict that decides, or leads elsewhere.
pub(super) fn verdict(attributes: &[u8]) -> Option<Verdict> {
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    const NF_DROP: i32 = 0;
    const NF_ACCEPT: i32 = 1;
    const NFT_JUMP: i32 = -3;
    const NFT_GOTO: i32 = -4;
    match attribute(attributes, NFTA_VERDICT_CODE).and_then(number).map(u32::cast_signed)? {
        NF_DROP => Some(Verdict::Drop),
        NF_ACCEPT => Some(Verdict::Accept),
        NFT_JUMP | NFT_GOTO => attribute(attributes, NFTA_VERDICT_CHAIN).map(string).map(Verdict::Chain),
        _ => None,
    }
}

/// `nat`, `masq` or `redir`: what it translates to, and whether all of that is known.
pub(super) fn translates(name: &str, data: &[u8], registers: &Registers) -> Option<(Does, bool)> {
    const NFTA_NAT_TYPE: u16 = 1;
    const NFT_NAT_SNAT: u32 = 0;
    let field = |kind| attribute(data, kind).and_then(number);
    // NFTA_NAT_REG_ADDR_MIN, _MAX, _PROTO_MIN, _MAX; NFTA_MASQ_REG_PROTO_MIN, _MAX; NFTA_REDIR_REG_PROTO_MIN, _MAX.
    let (addresses, ports) = match name {
        "nat" => (Some((field(3), field(4))), (field(5), field(6))),
        "masq" => (None, (field(2), field(3))),
        _ => (None, (field(1), field(2))),
    };
    let mut known = true;
    let mut constants = |(first, last): (Option<u32>, Option<u32>)| {
        let first = first?;
        let both = registers.constant(first).zip(registers.constant(last.unwrap_or(first)));
        known &= both.is_some();
        both
    };
    let to = addresses.and_then(&mut constants).map(|(first, last)| address(first).zip(address(last)));
    let ports = constants(ports).and_then(|(first, last)| Some(port(first)?..=port(last)?));
    let to = match to {
        Some(Some((first, last))) => vec![first..=last],
        Some(None) => return None,
        None => Vec::new(),
    };
    let translation = Translation { to, ports, output: None };
    let does = match (name, field(NFTA_NAT_TYPE)) {
        ("nat", Some(NFT_NAT_SNAT)) => Does::SourceNat(translation),
        ("masq", _) => Does::Masquerades(translation),
        _ => Does::DestinationNat(translation),
    };
    Some((does, known))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

fn port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
