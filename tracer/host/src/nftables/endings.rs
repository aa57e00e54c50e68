//! What a rule comes to: its verdict, or the translation of addresses.

use std::net::IpAddr;

use tracer_model::ruleset::audit::{Does, Translation, Verdict};

use super::super::nfnetlink::{attribute, number};
use super::expressions::Registers;

/// What a rule comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// A verdict.
    Verdict(Verdict),
    /// Something that is noted whatever the rule asks of a packet.
    Does(Does),
}

impl Ending {
    /// A translation of xtables or nft, whose interface is not known yet.
    pub(super) fn translation(&mut self) -> Option<&mut Translation> {
        match self {
            Self::Does(Does::SourceNat(to) | Does::Masquerades(to) | Does::DestinationNat(to)) => Some(to),
            _ => None,
        }
    }

    /// As its tool writes it.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Verdict(Verdict::Accept) => "accept".to_owned(),
            Self::Verdict(Verdict::Drop) => "drop".to_owned(),
            Self::Verdict(Verdict::Reject) => "reject".to_owned(),
            Self::Verdict(Verdict::Chain(to)) => format!("jump {to}"),
            Self::Does(Does::Untracks) => "notrack".to_owned(),
            Self::Does(Does::SourceNat(to)) => format!("snat to {to}"),
            Self::Does(Does::Masquerades(to)) if to.ports.is_none() => "masquerade".to_owned(),
            Self::Does(Does::Masquerades(to)) => format!("masquerade to {to}"),
            Self::Does(Does::DestinationNat(to)) if !to.to.is_empty() => format!("dnat to {to}"),
            Self::Does(Does::DestinationNat(to)) if to.ports.is_some() => format!("redirect to {to}"),
            Self::Does(Does::DestinationNat(_)) => "dnat".to_owned(),
            Self::Does(other) => other.name().to_owned(),
        }
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

pub(super) fn port(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
