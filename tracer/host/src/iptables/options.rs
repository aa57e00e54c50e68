//! The options of a target as iptables-save prints them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use tracer_model::ruleset::Family;
use tracer_model::ruleset::audit::Translation;

use super::xtables::Options;

/// A word of a line; one in quotes is never an option.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Word {
    /// Whether it is this option.
    pub(super) fn is(&self, option: &str) -> bool {
        !self.quoted && self.text == option
    }
}

/// The words behind a target.
pub(super) struct Printed<'a> {
    pub(super) words: &'a [Word],
    pub(super) family: Family,
}

impl Printed<'_> {
    fn value(&self, option: &str) -> Option<&str> {
        self.words.windows(2).find(|pair| pair[0].is(option)).map(|pair| pair[1].text.as_str())
    }
}

impl Options for Printed<'_> {
    fn tcp_reset(&self) -> bool {
        self.value("--reject-with") == Some("tcp-reset")
    }

    fn notrack(&self) -> Option<bool> {
        Some(self.words.iter().any(|word| word.is("--notrack")))
    }

    fn translation(&self) -> Option<Translation> {
        if let Some(text) = self.value("--to-source").or_else(|| self.value("--to-destination")) {
            return addresses(text, self.family);
        }
        let ports = self.value("--to-ports").map(|text| range(text).ok_or(())).transpose().ok()?;
        Some(Translation { ports, ..Translation::default() })
    }
}

/// `ADDRESS[-ADDRESS][:PORT[-PORT]]`, an IPv6 address with ports in brackets.
fn addresses(text: &str, family: Family) -> Option<Translation> {
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
