//! Statements that end a rule, as nftables stores them: verdicts and translations.

use std::net::IpAddr;

use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::Action;

use crate::nfnetlink::{attribute, number, string};

/// What a verdict does, in a rule or an element of a verdict map.
pub(super) fn decided(attributes: &[u8]) -> Action {
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    /// `NF_VERDICT_MASK`; what is above depends on the verdict.
    const VERDICT: i32 = 0xff;
    const NFT_CONTINUE: i32 = -1;
    const NFT_JUMP: i32 = -3;
    const NFT_GOTO: i32 = -4;
    const NFT_RETURN: i32 = -5;
    let chain = || attribute(attributes, NFTA_VERDICT_CHAIN).map(string);
    match attribute(attributes, NFTA_VERDICT_CODE).and_then(number).map(u32::cast_signed) {
        Some(NFT_CONTINUE) => Action::Nothing("continue".to_owned()),
        Some(NFT_RETURN) => Action::Return,
        Some(NFT_JUMP) => chain().map_or_else(|| Action::NotUnderstood("jump".to_owned()), Action::Jump),
        Some(NFT_GOTO) => chain().map_or_else(|| Action::NotUnderstood("goto".to_owned()), Action::Goto),
        Some(code @ 0..) => match code & VERDICT {
            0 => Action::Drop,
            1 => Action::Accept,
            3 => Action::Queue { bypass: code & 0x8000 != 0 },
            _ => Action::NotUnderstood(format!("verdict {code}")),
        },
        _ => Action::NotUnderstood("[verdict]".to_owned()),
    }
}

/// What `nat`, `masq` or `redir` translates to, as far as the rule itself has it in a register.
pub(super) fn translation(name: &str, data: &[u8], constant: impl Fn(u32) -> Option<Vec<u8>>) -> Translation {
    let field = |kind| attribute(data, kind).and_then(number);
    // NFTA_NAT_REG_ADDR_MIN, _MAX, _PROTO_MIN, _MAX; NFTA_MASQ_REG_PROTO_MIN, _MAX; NFTA_REDIR_REG_PROTO_MIN, _MAX.
    let (addresses, ports) = match name {
        "nat" => ((field(3), field(4)), (field(5), field(6))),
        "masq" => ((None, None), (field(2), field(3))),
        _ => ((None, None), (field(1), field(2))),
    };
    let both = |(first, last): (Option<u32>, Option<u32>)| {
        let first = first?;
        constant(first).zip(constant(last.unwrap_or(first)))
    };
    let to = both(addresses).and_then(|(first, last)| Some(address(&first)?..=address(&last)?));
    let ports = both(ports).and_then(|(first, last)| Some(port(&first)?..=port(&last)?));
    Translation { to: to.into_iter().collect(), ports, output: None }
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
