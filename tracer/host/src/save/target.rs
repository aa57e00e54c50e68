//! The target of a saved rule: what becomes of the packets that match.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracer_model::ruleset::audit::{Does, Translation, Verdict, output};
use tracer_model::ruleset::{Family, Test};

use super::Word;

/// What a target does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Rejects, and whether with a RST.
    Reject { reset: bool },
    /// Takes the packet to another chain, or hands it to an extension of that name.
    Chain(String),
    /// Accepts or drops.
    Ends(Verdict),
    /// Something else that is noted.
    Does(Does),
    /// Of no interest.
    Other,
    /// What is noted of its kind, but written in a way that is not understood.
    Strange,
}

/// Reads the words behind `-j` or `-g`.
pub(super) fn read(name: &str, options: &[Word], tests: &[Test], family: Family) -> Target {
    let value = |option: &str| {
        options.windows(2).find(|pair| !pair[0].quoted && pair[0].text == option).map(|pair| pair[1].text.as_str())
    };
    let has = |option: &str| options.iter().any(|word| !word.quoted && word.text == option);
    let translation = |option: &str| match value(option) {
        Some(text) => destination(text, family).map(|found| Translation { output: output(tests), ..found }),
        None => Some(Translation { output: output(tests), ..Translation::default() }),
    };
    let only_ports = |does: fn(Translation) -> Does| {
        let ports = value("--to-ports").map(|text| range(text).ok_or(())).transpose();
        ports.ok().map(|ports| does(Translation { ports, output: output(tests), ..Translation::default() }))
    };
    let does = match name {
        "REJECT" => return Target::Reject { reset: value("--reject-with") == Some("tcp-reset") },
        "ACCEPT" => return Target::Ends(Verdict::Accept),
        "DROP" => return Target::Ends(Verdict::Drop),
        "NOTRACK" => Some(Does::Untracks),
        "CT" if has("--notrack") => Some(Does::Untracks),
        "CT" | "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "RETURN" => return Target::Other,
        "SNAT" => translation("--to-source").filter(|found| !found.to.is_empty()).map(Does::SourceNat),
        "DNAT" => translation("--to-destination").map(Does::DestinationNat),
        "MASQUERADE" => only_ports(Does::Masquerades),
        "REDIRECT" => only_ports(Does::DestinationNat),
        chain => return Target::Chain(chain.to_owned()),
    };
    does.map_or(Target::Strange, Target::Does)
}

/// `ADDRESS[-ADDRESS][:PORT[-PORT]]`, an IPv6 address with ports in brackets.
fn destination(text: &str, family: Family) -> Option<Translation> {
    let (addresses, ports) = match (family, text.strip_prefix('[')) {
        (Family::Ip6, Some(rest)) => {
            let (addresses, rest) = rest.split_once(']')?;
            (addresses, rest.strip_prefix(':'))
        }
        (Family::Ip6, None) => (text, None),
        _ => text.split_once(':').map_or((text, None), |(addresses, ports)| (addresses, Some(ports))),
    };
    let address =
        |text: &str| text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == (family != Family::Ip6));
    let to = match addresses.split_once('-') {
        _ if addresses.is_empty() => Vec::new(),
        Some((first, last)) => vec![address(first)?..=address(last.trim_start_matches('['))?],
        None => vec![address(addresses)?..=address(addresses)?],
    };
    // Behind a slash a DNAT rule may say where its range begins to be used.
    let ports = ports.map(|ports| range(ports.split('/').next().unwrap_or_default()).ok_or(()));
    Some(Translation { to, ports: ports.transpose().ok()?, output: None })
}

fn range(ports: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    Some(first.parse().ok()?..=last.parse().ok()?)
}
