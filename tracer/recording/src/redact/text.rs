//! Addresses and known names inside of texts.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddrV4};

use ipnet::IpNet;

use super::Redactor;

impl Redactor {
    /// A text with pseudonyms in the place of every address and every name that was met.
    pub(super) fn text(&mut self, text: &str) -> String {
        let text = self.without_addresses(text);
        self.without_names(&text)
    }

    fn without_names(&self, text: &str) -> String {
        let of_name = |character: char| character.is_alphanumeric() || "_-.@".contains(character);
        let text: String = runs(text, of_name).map(|(run, _)| self.names.known(run).unwrap_or(run)).collect();
        let odd = self.names.all().filter(|(name, _)| !name.chars().all(of_name) && name.len() > 1);
        odd.fold(text, |text, (name, pseudonym)| text.replace(name, pseudonym))
    }

    pub(super) fn without_addresses(&mut self, text: &str) -> String {
        let of_address = |character: char| character.is_ascii_hexdigit() || ":.".contains(character);
        let mut out = String::with_capacity(text.len());
        let mut behind = text;
        for (run, is_address) in runs(text, of_address) {
            behind = &behind[run.len()..];
            if !is_address {
                out.push_str(run);
                continue;
            }
            let bare = run.trim_end_matches('.');
            let bare = if bare.ends_with("::") { bare } else { bare.trim_end_matches(':') };
            // A String takes any write.
            let _infallible = match self.address(bare, behind) {
                Some(pseudonym) => write!(out, "{pseudonym}{}", &run[bare.len()..]),
                None => write!(out, "{run}"),
            };
        }
        out
    }

    /// The pseudonym of an address, with a port or without; `behind` it may be the length of a prefix.
    fn address(&mut self, text: &str, behind: &str) -> Option<String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let pseudonym = self.addresses.pseudonym(address);
            let network = prefix_length(behind).and_then(|length| IpNet::new(pseudonym, length).ok());
            return Some(network.map_or(pseudonym, |network| network.network()).to_string());
        }
        if let Ok(endpoint) = text.parse::<SocketAddrV4>() {
            let pseudonym = self.addresses.pseudonym((*endpoint.ip()).into());
            return Some(format!("{pseudonym}:{}", endpoint.port()));
        }
        // Something with an address in it is not let through because of what it is glued to.
        let (before, after) = text.split_once(':')?;
        let parts = [before, after].map(|part| self.address(part, ""));
        match parts {
            [None, None] => None,
            [one, other] => Some(format!("{}:{}", one.as_deref().unwrap_or(before), other.as_deref().unwrap_or(after))),
        }
    }
}

fn prefix_length(behind: &str) -> Option<u8> {
    let digits = behind.strip_prefix('/')?;
    let end = digits.find(|character: char| !character.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

/// A text as runs of characters that are of a kind and of such that are not.
pub(super) fn runs(text: &str, of_kind: impl Fn(char) -> bool) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let kind = of_kind(rest.chars().next()?);
        let end = rest.find(|character| of_kind(character) != kind).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        rest = behind;
        Some((run, kind))
    })
}
