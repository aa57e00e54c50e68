//! The tracker's log messages, and its verdict on the logged packet.
//!
//! A log message alone does not mean INVALID: conntrack accepts some of the packets that it logs. The verdict follows
//! from the message and the conntrack log format. Source: `net/netfilter/nf_conntrack_proto_tcp.c` of 5.10, 5.15, 5.19, 6.0,
//! 6.1, 6.6, 6.9, 6.12, 6.18 and 7.2.

use super::window::Failure;
use crate::conntrack::log_format::LogFormat;

/// What conntrack did with the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// INVALID: the packet has no entry and is not translated, and the rules for INVALID packets apply to it.
    Invalid,
    /// Accepted and translated, without updating the entry (`NFCT_TCP_IGNORE`, or the state table's sIG).
    Ignored,
    /// The message does not decide.
    Unknown,
}

impl Verdict {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Ignored => "ignored",
            Self::Unknown => "unknown",
        }
    }
}

/// A message of the TCP tracker, whatever its text in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// A window check failed.
    Window {
        /// Which one.
        failure: Failure,
        /// The number in the message: the bound that was missed (exclusive), or the bytes too many of an overshot.
        logged: Option<u32>,
    },
    /// The state table has no place for the packet (sIV).
    InvalidState,
    /// The state table ignores the packet (sIG): it may resynchronise a connection that conntrack has lost track of.
    IgnoredInState,
    /// An ACK that answers a SYN inside a closing connection (RFC 5961 §4).
    ChallengeAck,
    /// A RST below what its receiver has already acknowledged.
    InvalidRst,
    /// A first packet that cannot open a connection.
    InvalidNew,
    /// The TCP header does not fit into the packet.
    Truncated,
    /// The TCP checksum is wrong.
    BadChecksum,
    /// A combination of flags that no TCP sends.
    BadFlags,
    /// Not about the packet itself: the entry's timeout was lowered because of it (6.1 and later).
    LoweredTimeout,
    /// Words that this table does not have.
    Other,
}

/// A message's format string and what it means. The strings are facts of the kernels named at the top.
const FORMATS: &[(&str, Meaning)] = &[
    ("SEQ is over upper bound %u (over the window of the receiver)", Meaning::Window(Failure::SeqOver)),
    ("ACK is over upper bound %u (ACKed data not seen yet)", Meaning::Window(Failure::AckOver)),
    ("SEQ is under lower bound %u (already ACKed data retransmitted)", Meaning::Window(Failure::SeqUnder)),
    ("ignored ACK under lower bound %u (possible overly delayed)", Meaning::Window(Failure::AckUnder)),
    ("%u bytes more than expected", Meaning::Window(Failure::Overshot)),
    ("invalid state", Meaning::Plain(Message::InvalidState)),
    ("packet (index %d) in dir %d invalid, state %s", Meaning::Plain(Message::InvalidState)),
    ("invalid packet ignored in state %s ", Meaning::Plain(Message::IgnoredInState)),
    ("packet (index %d) in dir %d ignored, state %s", Meaning::Plain(Message::IgnoredInState)),
    ("challenge-ack ignored", Meaning::Plain(Message::ChallengeAck)),
    ("invalid rst", Meaning::Plain(Message::InvalidRst)),
    ("packet (index %d, dir %d) response for index %d lower timeout to %u", Meaning::Plain(Message::LoweredTimeout)),
    ("lowered timeout to UNACK", Meaning::Plain(Message::LoweredTimeout)),
];

/// Messages that are handed over as the argument of a `"%s"`.
const TEXTS: &[(&str, Meaning)] = &[
    ("SEQ is over the upper bound (over the window of the receiver)", Meaning::Window(Failure::SeqOver)),
    ("SEQ is under the lower bound (already ACKed data retransmitted)", Meaning::Window(Failure::SeqUnder)),
    ("ACK is over the upper bound (ACKed data not seen yet)", Meaning::Window(Failure::AckOver)),
    ("ACK is under the lower bound (possible overly delayed ACK)", Meaning::Window(Failure::AckUnder)),
    ("truncated packet", Meaning::Plain(Message::Truncated)),
    ("bad checksum", Meaning::Plain(Message::BadChecksum)),
    ("invalid tcp flag combination", Meaning::Plain(Message::BadFlags)),
    ("invalid new", Meaning::Plain(Message::InvalidNew)),
];

/// A text that a format prints.
struct Printed {
    /// The first `%u`, where the format has one.
    number: Option<u32>,
}

/// Whether `text` is what `format` prints.
fn printed(format: &str, text: &str) -> Option<Printed> {
    let mut number = None;
    let mut pieces = format.split('%');
    let mut rest = text.strip_prefix(pieces.next()?)?;
    for piece in pieces {
        let (conversion, literal) = piece.split_at_checked(1)?;
        let len = match conversion {
            "s" => rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'),
            _ => rest.find(|digit: char| !digit.is_ascii_digit() && digit != '-'),
        };
        let (argument, behind) = rest.split_at(len.unwrap_or(rest.len()));
        if argument.is_empty() {
            return None;
        }
        if conversion == "u" && number.is_none() {
            number = Some(argument.parse().ok()?);
        }
        rest = behind.strip_prefix(literal)?;
    }
    rest.is_empty().then_some(Printed { number })
}

#[derive(Clone, Copy)]
enum Meaning {
    Window(Failure),
    Plain(Message),
}

impl Message {
    /// Recognises a message by its format string, the string argument where the format is `"%s"`, and its first number.
    pub fn recognise(format: &str, text: &str, first: u32) -> Self {
        let (table, logged) = if format == "%s" { (TEXTS, text) } else { (FORMATS, format) };
        match table.iter().find(|(known, _)| *known == logged) {
            Some((_, Meaning::Window(failure))) => {
                Self::Window { failure: *failure, logged: format.contains("%u").then_some(first) }
            }
            Some((_, Meaning::Plain(message))) => *message,
            None => Self::Other,
        }
    }

    /// A format or an argument by its bytes, where it is one that kernels are known to have.
    pub fn known_text(bytes: &[u8]) -> Option<&'static str> {
        let known = FORMATS.iter().chain(TEXTS).map(|(text, _)| *text);
        ["", "%s"].into_iter().chain(known).find(|text| text.as_bytes() == bytes)
    }

    /// Recognises a message as the kernel's log has it: with its arguments filled in.
    pub fn recognise_logged(text: &str) -> Self {
        let text = text.trim_end();
        for (format, meaning) in FORMATS.iter().chain(TEXTS) {
            let Some(Printed { number }) = printed(format.trim_end(), text) else { continue };
            return match meaning {
                Meaning::Window(failure) => Self::Window { failure: *failure, logged: number },
                Meaning::Plain(message) => *message,
            };
        }
        Self::Other
    }

    /// The verdict on the packet in a kernel with this log format.
    pub const fn verdict(self, log_format: LogFormat) -> Verdict {
        match self {
            Self::Window { failure: Failure::SeqOver | Failure::AckOver, .. }
            | Self::InvalidState
            | Self::InvalidRst
            | Self::InvalidNew
            | Self::Truncated
            | Self::BadChecksum
            | Self::BadFlags => Verdict::Invalid,
            // The text changed together with the verdict: a kernel that logs the bound accepts the packet. Where the text
            // and the log format contradict each other, only the RST shows the verdict.
            Self::Window { failure: Failure::SeqUnder | Failure::AckUnder, logged } => match (logged, log_format) {
                (None, LogFormat::E1 | LogFormat::E2 | LogFormat::Unknown) => Verdict::Invalid,
                (Some(_), LogFormat::E3 | LogFormat::E4 | LogFormat::Unknown) => Verdict::Ignored,
                _ => Verdict::Unknown,
            },
            // 6.0, which classifies the packet as INVALID, and 6.1, which accepts it, log the same text.
            Self::Window { failure: Failure::Overshot, .. } => match log_format {
                LogFormat::E2 => Verdict::Invalid,
                LogFormat::E3 | LogFormat::E4 => Verdict::Ignored,
                LogFormat::E1 | LogFormat::Unknown => Verdict::Unknown,
            },
            Self::IgnoredInState | Self::ChallengeAck => Verdict::Ignored,
            Self::LoweredTimeout | Self::Other => Verdict::Unknown,
        }
    }

    /// Whether the message is a remark on a packet that another message is about.
    pub const fn is_remark(self) -> bool {
        matches!(self, Self::LoweredTimeout)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Message, Verdict};
    use crate::conntrack::log_format::LogFormat;
    use crate::conntrack::window::Failure;

    const fn window(failure: Failure, logged: Option<u32>) -> Message {
        Message::Window { failure, logged }
    }

    #[rstest]
    // 5.10
    #[case(
        "%s",
        "SEQ is under the lower bound (already ACKed data retransmitted)",
        LogFormat::E1,
        window(Failure::SeqUnder, None),
        Verdict::Invalid
    )]
    #[case(
        "%s",
        "ACK is over the upper bound (ACKed data not seen yet)",
        LogFormat::E1,
        window(Failure::AckOver, None),
        Verdict::Invalid
    )]
    #[case(
        "invalid packet ignored in state %s ",
        "ESTABLISHED",
        LogFormat::E1,
        Message::IgnoredInState,
        Verdict::Ignored
    )]
    #[case("invalid state", "", LogFormat::E1, Message::InvalidState, Verdict::Invalid)]
    // 5.15 and 6.0: the text of 5.10 after another argument, and the overshot
    #[case(
        "%s",
        "ACK is under the lower bound (possible overly delayed ACK)",
        LogFormat::E2,
        window(Failure::AckUnder, None),
        Verdict::Invalid
    )]
    #[case("%u bytes more than expected", "", LogFormat::E2, window(Failure::Overshot, Some(7)), Verdict::Invalid)]
    #[case(
        "packet (index %d) in dir %d ignored, state %s",
        "ESTABLISHED",
        LogFormat::E2,
        Message::IgnoredInState,
        Verdict::Ignored
    )]
    // 6.1 and later: three-way
    #[case("%u bytes more than expected", "", LogFormat::E3, window(Failure::Overshot, Some(7)), Verdict::Ignored)]
    #[case(
        "SEQ is under lower bound %u (already ACKed data retransmitted)",
        "",
        LogFormat::E4,
        window(Failure::SeqUnder, Some(7)),
        Verdict::Ignored
    )]
    #[case(
        "ignored ACK under lower bound %u (possible overly delayed)",
        "",
        LogFormat::E3,
        window(Failure::AckUnder, Some(7)),
        Verdict::Ignored
    )]
    #[case(
        "SEQ is over upper bound %u (over the window of the receiver)",
        "",
        LogFormat::E4,
        window(Failure::SeqOver, Some(7)),
        Verdict::Invalid
    )]
    #[case(
        "packet (index %d, dir %d) response for index %d lower timeout to %u",
        "",
        LogFormat::E3,
        Message::LoweredTimeout,
        Verdict::Unknown
    )]
    // nf_l4proto_log_invalid
    #[case("%s", "bad checksum", LogFormat::E4, Message::BadChecksum, Verdict::Invalid)]
    #[case("%s", "invalid new", LogFormat::E4, Message::InvalidNew, Verdict::Invalid)]
    // text and log format contradict each other
    #[case(
        "SEQ is under lower bound %u (already ACKed data retransmitted)",
        "",
        LogFormat::E1,
        window(Failure::SeqUnder, Some(7)),
        Verdict::Unknown
    )]
    #[case(
        "%s",
        "SEQ is under the lower bound (already ACKed data retransmitted)",
        LogFormat::E4,
        window(Failure::SeqUnder, None),
        Verdict::Unknown
    )]
    // text of a later kernel
    #[case("the segment is %s", "odd", LogFormat::E4, Message::Other, Verdict::Unknown)]
    #[case("%u bytes more than expected", "", LogFormat::Unknown, window(Failure::Overshot, Some(7)), Verdict::Unknown)]
    fn recognises(
        #[case] format: &str,
        #[case] text: &str,
        #[case] log_format: LogFormat,
        #[case] message: Message,
        #[case] verdict: Verdict,
    ) {
        let found = Message::recognise(format, text, 7);
        assert_eq!(found, message);
        assert_eq!(found.verdict(log_format), verdict);
    }
}
