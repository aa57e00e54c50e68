//! What the matches of xtables ask of a packet, and what its targets do. The readers take options out of text or of the
//! processor's memory; none of them decides what an option means.

use tracer_model::ruleset::audit::{Does, Translation, Verdict};
use tracer_model::ruleset::{Key, Test};

use crate::terminal::Terminal;

/// Where the ports are in a header of TCP or UDP.
pub(super) const SOURCE_PORT: u32 = 0;
pub(super) const DESTINATION_PORT: u32 = 2;

/// The states of `--ctstate`: their bit in `xt_conntrack_mtinfo3`'s `state_mask` (`linux/netfilter/xt_conntrack.h`), and
/// their `NF_CT_STATE_*` bit. SNAT and DNAT are left out: they ask for the entry's status.
const STATES: [(&str, u16, u32); 5] = [
    ("INVALID", 1, 1),
    ("ESTABLISHED", 1 << 1, 1 << 1),
    ("RELATED", 1 << 2, 1 << 2),
    ("NEW", 1 << 3, 1 << 3),
    ("UNTRACKED", 1 << 8, 1 << 6),
];

/// `--sport` or `--dport`, both bounds included.
pub(super) fn ports(offset: u32, from: u16, to: u16) -> Test {
    let bounds = vec![(from.to_be_bytes().to_vec(), to.to_be_bytes().to_vec())];
    Test { key: Key::TransportHeader { offset }, mask: Vec::new(), bounds, inside: true }
}

/// `--tcp-flags`.
pub(super) fn tcp_flags(mask: u8, set: u8) -> Test {
    Test { mask: vec![mask], ..Test::is(Key::TransportHeader { offset: 13 }, vec![set]) }
}

/// `--ctstate` of these names; none where one of them is not known.
pub(super) fn states_named(names: &str) -> Option<Test> {
    let bits = names
        .split(',')
        .try_fold(0, |bits, name| STATES.iter().find(|(known, ..)| *known == name).map(|(.., bit)| bits | bit));
    Some(Test::state(bits?, false))
}

/// `--ctstate` of a `state_mask`; none where it has other bits.
pub(super) fn states_masked(mask: u16) -> Option<Test> {
    let asked = STATES.iter().filter(|(_, bit, _)| mask & bit != 0);
    let (known, bits) = asked.fold((0, 0), |(known, bits), (_, of_mask, bit)| (known | of_mask, bits | bit));
    (known == mask).then(|| Test::state(bits, false))
}

/// What becomes of the packets that match.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// They are answered with a RST.
    Reset,
    /// Something else that decides, or is noted.
    Terminal(Terminal),
    /// Nothing that matters here.
    Other,
    /// What is noted of its kind, but its options cannot be read.
    Unreadable,
}

/// The options of a target, however they are stored; none where they cannot be read.
pub(super) trait Options {
    /// Whether `REJECT` answers with a RST.
    fn tcp_reset(&self) -> bool;
    /// Whether `CT` exempts from tracking.
    fn notrack(&self) -> Option<bool>;
    /// What a target that translates translates to, but for the interface.
    fn translation(&self) -> Option<Translation>;
}

/// What the target of this name does. What is not known may be a chain or an extension.
pub(super) fn target(name: &str, options: &impl Options) -> Target {
    let translates = |does: fn(Translation) -> Does| options.translation().map(does);
    let does = match name {
        "REJECT" if options.tcp_reset() => return Target::Reset,
        "REJECT" => return Target::Terminal(Terminal::Verdict(Verdict::Reject)),
        "ACCEPT" => return Target::Terminal(Terminal::Verdict(Verdict::Accept)),
        "DROP" => return Target::Terminal(Terminal::Verdict(Verdict::Drop)),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "RETURN" => return Target::Other,
        "NOTRACK" => Some(Does::Untracks),
        "CT" => match options.notrack() {
            Some(false) => return Target::Other,
            other => other.map(|_| Does::Untracks),
        },
        "SNAT" => options.translation().filter(|found| !found.to.is_empty()).map(Does::SourceNat),
        "MASQUERADE" => translates(Does::Masquerades),
        "DNAT" | "REDIRECT" => translates(Does::DestinationNat),
        chain => return Target::Terminal(Terminal::Verdict(Verdict::Chain(chain.to_owned()))),
    };
    does.map_or(Target::Unreadable, |does| Target::Terminal(Terminal::Does(does)))
}

#[cfg(test)]
mod tests {
    use super::{STATES, states_masked, states_named};

    /// Text and memory ask the same.
    #[test]
    fn states_have_one_meaning() {
        for (name, mask, _) in STATES {
            assert!(states_named(name).is_some());
            assert_eq!(states_named(name), states_masked(mask), "{name}");
        }
        assert_eq!(states_named("NEW,UNTRACKED"), states_masked(0x108));
        assert_eq!((states_named("SNAT"), states_masked(1 << 6)), (None, None));
    }
}
