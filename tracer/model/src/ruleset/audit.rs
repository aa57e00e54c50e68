//! The rules that affect tracked connections: those that act on INVALID packets, exempt packets from tracking, or translate
//! addresses.
//!
//! Pure. A rule that is not understood becomes a problem; nothing is guessed.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Backend, Family, Hooks, Key, Rule, Test};
use crate::time::Instant;

/// Rules that are kept of each kind; a host of containers has thousands that translate destinations.
const KEPT: usize = 64;
/// `NF_CT_STATE_INVALID_BIT` (`include/net/netfilter/nf_conntrack.h`).
const INVALID: u32 = 1;

/// The rules of a network namespace that affect tracked connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// When they had been read.
    pub at: Instant,
    /// The rules, in the order of their chains.
    pub noted: Vec<Noted>,
    /// Base chains that drop what none of their rules accepts.
    pub drops: Vec<BaseChain>,
    /// What could not be read or was not understood, and what was left out.
    pub problems: Vec<String>,
}

impl Audit {
    /// Joins what the readers found, at most [`KEPT`] rules of each kind.
    pub fn new(netns: u32, at: Instant, found: Found) -> Self {
        let Found { noted: all, drops, mut problems } = found;
        let mut noted: Vec<Noted> = Vec::new();
        let mut left_out: Vec<(&'static str, usize)> = Vec::new();
        for rule in all {
            let kind = rule.does.name();
            if noted.iter().filter(|kept| kept.does.name() == kind).count() < KEPT {
                noted.push(rule);
            } else if let Some((_, more)) = left_out.iter_mut().find(|(known, _)| *known == kind) {
                *more += 1;
            } else {
                left_out.push((kind, 1));
            }
        }
        problems
            .extend(left_out.iter().map(|(kind, more)| format!("{more} more rules of the kind {kind} are not listed")));
        Self { netns, at, noted, drops, problems }
    }
}

/// The result of the reader of one backend.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Rules that matter to tracked connections.
    pub noted: Vec<Noted>,
    /// Base chains that drop what no rule accepts.
    pub drops: Vec<BaseChain>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Found {
    /// Adds what another reader found.
    pub fn extend(&mut self, other: Self) {
        self.noted.extend(other.noted);
        self.drops.extend(other.drops);
        self.problems.extend(other.problems);
    }
}

/// A rule that matters to tracked connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// What it does.
    pub does: Does,
    /// The rule: where it is, how its tool shows it ([`Rule::shown_by`]), the hooks that lead to it ([`Rule::hooks`]), and
    /// what else it asks of a packet ([`Rule::tests`]; not all of that is understood unless [`Rule::complete`]).
    pub rule: Rule,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// Drops INVALID packets.
    DropsInvalid,
    /// Rejects them, with a RST or an ICMP error.
    RejectsInvalid,
    /// Accepts them.
    AcceptsInvalid,
    /// Sends them to another chain.
    SendsInvalid {
        /// Its name.
        to: String,
    },
    /// Exempts packets from tracking.
    Untracks,
    /// Changes the source to fixed addresses.
    SourceNat(Translation),
    /// Changes the source to the address of the interface that the packet leaves by.
    Masquerades(Translation),
    /// Changes the destination; without addresses to this host (`redirect`).
    DestinationNat(Translation),
}

impl Does {
    /// The word used for it in every output.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DropsInvalid => "drops-invalid",
            Self::RejectsInvalid => "rejects-invalid",
            Self::AcceptsInvalid => "accepts-invalid",
            Self::SendsInvalid { .. } => "sends-invalid",
            Self::Untracks => "untracks",
            Self::SourceNat(_) => "source-nat",
            Self::Masquerades(_) => "masquerades",
            Self::DestinationNat(_) => "destination-nat",
        }
    }

    /// What a verdict does to INVALID packets; `None` where the rule does not match that state.
    pub fn to_invalid(verdict: &Verdict, tests: &[Test]) -> Option<Self> {
        let mut states = tests.iter().filter(|test| test.key == Key::State).peekable();
        states.peek()?;
        states.all(|test| test.admits(INVALID.to_ne_bytes().to_vec())).then(|| match verdict {
            Verdict::Drop => Self::DropsInvalid,
            Verdict::Reject => Self::RejectsInvalid,
            Verdict::Accept => Self::AcceptsInvalid,
            Verdict::Chain(to) => Self::SendsInvalid { to: to.clone() },
        })
    }

    /// The translation, of a rule that translates.
    pub const fn translation(&self) -> Option<&Translation> {
        match self {
            Self::SourceNat(translation) | Self::Masquerades(translation) | Self::DestinationNat(translation) => {
                Some(translation)
            }
            _ => None,
        }
    }
}

/// What a rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It accepts.
    Accept,
    /// It drops.
    Drop,
    /// It rejects.
    Reject,
    /// It goes to a chain.
    Chain(String),
}

/// What a rule translates to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// The new addresses; none where the rule does not fix them, or looks them up.
    pub to: Vec<RangeInclusive<IpAddr>>,
    /// The new ports, where the rule fixes them.
    pub ports: Option<RangeInclusive<u16>>,
    /// The interface that the packet has to leave by, where the rule names exactly one.
    pub output: Option<String>,
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wrote = false;
        for addresses in &self.to {
            let (first, last) = (addresses.start(), addresses.end());
            let brackets = first.is_ipv6() && self.ports.is_some();
            let (open, close) = if brackets { ("[", "]") } else { ("", "") };
            write!(f, "{}{open}{first}", if wrote { ", " } else { "" })?;
            if first != last {
                write!(f, "-{last}")?;
            }
            f.write_str(close)?;
            wrote = true;
        }
        let Some(ports) = &self.ports else { return Ok(()) };
        write!(f, ":{}", ports.start())?;
        if ports.start() == ports.end() { Ok(()) } else { write!(f, "-{}", ports.end()) }
    }
}

/// The one interface that a packet has to leave by to meet these tests.
pub fn output(tests: &[Test]) -> Option<String> {
    tests.iter().filter(|test| test.key == Key::OutputName).find_map(|test| {
        let [(from, to)] = &test.bounds[..] else { return None };
        // Without a zero byte at the end it is the beginning of a name.
        let name = from.split(|byte| *byte == 0).next().filter(|name| name.len() < from.len() && !name.is_empty())?;
        (test.inside && from == to && test.mask.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
    })
}

/// A chain that the kernel enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// What made it.
    pub backend: Backend,
    /// The address families whose packets enter it.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it is entered.
    pub hooks: Hooks,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::{Family, Rule, Shown};
    use super::{Audit, Does, Found, Noted, Translation, Verdict, output};
    use crate::ruleset::{Backend, Hooks, Key, Test};
    use crate::time::Instant;

    fn name(bytes: &[u8]) -> Test {
        Test::is(Key::OutputName, bytes.to_vec())
    }

    #[rstest]
    #[case::invalid(Test::state(1, false), true)]
    #[case::invalid_or_untracked(Test::state(1 | 1 << 6, false), true)]
    #[case::not_new(Test::state(8, true), true)]
    #[case::established(Test::state(2, false), false)]
    #[case::not_invalid(Test::state(1, true), false)]
    fn what_is_asked_of_the_state(#[case] test: Test, #[case] is: bool) {
        let shown = Shown(&test, Family::Inet).to_string();
        assert_eq!(Does::to_invalid(&Verdict::Drop, &[test]), is.then_some(Does::DropsInvalid), "{shown}");
    }

    #[test]
    fn a_rule_that_asks_for_no_state_is_not_about_invalid_packets() {
        assert_eq!(Does::to_invalid(&Verdict::Drop, &[name(b"wan0\0")]), None);
    }

    #[test]
    fn names_of_interfaces() {
        assert_eq!(output(&[Test::state(1, false), name(b"wan0\0\0\0")]).as_deref(), Some("wan0"));
        assert_eq!(output(&[name(b"wan")]), None, "a prefix");
        assert_eq!(output(&[Test { inside: false, ..name(b"wan0\0") }]), None, "not that one");
    }

    #[test]
    fn translations_are_written_as_their_tools_do() {
        let to = |first: &str, last: &str| vec![first.parse().unwrap()..=last.parse().unwrap()];
        let shown = |to, ports| Translation { to, ports, output: None }.to_string();
        assert_eq!(shown(to("192.0.2.1", "192.0.2.1"), None), "192.0.2.1");
        assert_eq!(shown(to("192.0.2.1", "192.0.2.4"), Some(1024..=2000)), "192.0.2.1-192.0.2.4:1024-2000");
        assert_eq!(shown(to("fd00::1", "fd00::1"), Some(80..=80)), "[fd00::1]:80");
        assert_eq!(shown(Vec::new(), None), "");
    }

    #[test]
    fn what_there_is_too_much_of_is_counted() {
        let rule = Rule {
            backend: Backend::Nftables,
            family: Family::Ip,
            table: "nat".to_owned(),
            chain: "services".to_owned(),
            handle: None,
            number: None,
            place: 0,
            hooks: Hooks::default(),
            tests: Vec::new(),
            complete: true,
            packets: None,
            text: String::new(),
        };
        let noted = |does: Does| Noted { does, rule: rule.clone() };
        let mut found = Found::default();
        found.noted.extend((0..100).map(|_| noted(Does::DestinationNat(Translation::default()))));
        found.noted.push(noted(Does::Untracks));
        let audit = Audit::new(1, Instant(2), found);
        assert_eq!(audit.noted.len(), 64 + 1);
        assert_eq!(audit.noted[64].does, Does::Untracks);
        assert_eq!(audit.problems, ["36 more rules of the kind destination-nat are not listed"]);
    }
}
