//! The kernel's own log lines about conntrack, as dmesg, the journal and syslog hand them on.
//!
//! Total: a line is understood, or is conntrack's and not understood, or is none of conntrack's. Sources of the formats:
//! `nf_ct_l4proto_log_invalid`, `nf_l4proto_log_invalid`, `__nf_conntrack_alloc` and `nf_log_dump_tcp_header`, 5.10 to 7.2;
//! `ip_conntrack` is what the module was called before 2.6.20.

use std::net::{IpAddr, SocketAddr};

use crate::conntrack::Message;

/// A line of conntrack's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// It is about a TCP packet.
    Packet(Logged),
    /// A packet of a new connection was dropped: the table is full.
    TableFull {
        /// Inode number of the network namespace, where it is not the initial one (6.18 and later).
        netns: Option<u32>,
    },
    /// The table of expected connections (FTP, SIP and other helpers) is full; it is another one.
    ExpectationTableFull,
    /// syslog: the line before came again, this often.
    Repeated(u64),
    /// conntrack's, but not understood.
    Other,
}

/// A packet that conntrack logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// What it means.
    pub message: Message,
    /// The kernel's text.
    pub words: String,
    /// The endpoints, where the line has them.
    pub endpoints: Option<(SocketAddr, SocketAddr)>,
    /// The line is about a RST that leaves this host: an effect of what came before.
    pub own_reset: bool,
}

/// Reads a line, and how often syslog says that it came; `None` where it is none of conntrack's.
pub fn parse(line: &str) -> Option<(Line, u64)> {
    // rsyslog: "message repeated 3 times: [ …]"
    if let Some((_, repeated)) = line.split_once("message repeated ")
        && let Some((times, inner)) = repeated.split_once(" times: [")
    {
        return Some((once(inner.trim_end().trim_end_matches(']'))?, times.parse().ok()?));
    }
    Some((once(line)?, 1))
}

fn once(line: &str) -> Option<Line> {
    if let Some((_, repeated)) = line.split_once("last message repeated ") {
        return Some(Line::Repeated(repeated.split(' ').next()?.parse().ok()?));
    }
    let marks = ["nf_conntrack: ", "ip_conntrack: ", "nf_ct_proto_6: ", "nf_ct_tcp: "];
    let (mark, text) = marks.iter().find_map(|mark| Some((*mark, line.split_once(mark)?.1)))?;
    if mark.ends_with("conntrack: ") {
        return Some(table(text));
    }
    Some(Line::Packet(packet(text)))
}

fn table(text: &str) -> Line {
    // The module's name comes twice: from the message, and from the prefix of all of the module's messages.
    let text = text.trim_start_matches("nf_conntrack: ");
    if text.starts_with("expectation table full") {
        return Line::ExpectationTableFull;
    }
    let Some(rest) = text.strip_prefix("table full") else { return Line::Other };
    let netns = rest.strip_prefix(" in netns ").and_then(|rest| rest.split(',').next()?.trim().parse().ok());
    Line::TableFull { netns }
}

fn packet(text: &str) -> Logged {
    // The packet's fields follow the words; which comes first differs with where the packet was.
    let fields = [" IN=", " OUT=", " SRC="].iter().filter_map(|field| text.find(field)).min();
    // Kernels print the words with and without a space behind them.
    let (words, fields) = text.split_at(fields.unwrap_or(text.len()));
    let words = words.trim_end();
    let field =
        |name: &str| fields.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let endpoint = |address: &str, port: &str| -> Option<SocketAddr> {
        Some(SocketAddr::new(field(address)?.parse::<IpAddr>().ok()?, field(port)?.parse().ok()?))
    };
    let leaves = field("IN") == Some("") && field("OUT").is_some_and(|interface| !interface.is_empty());
    Logged {
        message: Message::recognise_logged(words),
        words: words.chars().map(|letter| if letter.is_ascii_graphic() { letter } else { ' ' }).collect(),
        endpoints: endpoint("SRC", "SPT").zip(endpoint("DST", "DPT")),
        own_reset: leaves && fields.split_ascii_whitespace().any(|word| word == "RST"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::{Line, parse};
    use crate::conntrack::Message;
    use crate::conntrack::window::Failure;

    const PACKET: &str = "IN= OUT= SRC=192.0.2.2 DST=192.0.2.1 LEN=1052 TOS=0x00 PREC=0x00 TTL=64 ID=4660 DF PROTO=TCP \
                          SPT=443 DPT=34567 SEQ=3270668047 ACK=2102471179 WINDOW=502 RES=0x00 ACK PSH URGP=0";

    const fn window(failure: Failure, logged: Option<u32>) -> Message {
        Message::Window { failure, logged }
    }

    #[rstest]
    // 5.10, dmesg
    #[case(
        "[12345.678901] nf_ct_proto_6: SEQ is under the lower bound (already ACKed data retransmitted) ",
        window(Failure::SeqUnder, None)
    )]
    // 6.1, journal
    #[case(
        "Nov 21 08:00:00 gw-1 kernel: nf_ct_proto_6: SEQ is over upper bound 1081931176 (over the window of the receiver) ",
        window(Failure::SeqOver, Some(1_081_931_176))
    )]
    #[case(
        "nf_ct_proto_6: ignored ACK under lower bound 17 (possible overly delayed) ",
        window(Failure::AckUnder, Some(17))
    )]
    #[case("kernel: nf_ct_proto_6: 1449 bytes more than expected ", window(Failure::Overshot, Some(1_449)))]
    #[case("nf_ct_proto_6: packet (index 3) in dir 1 invalid, state TIME_WAIT ", Message::InvalidState)]
    #[case("nf_ct_proto_6: packet (index 1) in dir 1 ignored, state SYN_SENT2 ", Message::IgnoredInState)]
    #[case("nf_ct_proto_6: invalid packet ignored in state ESTABLISHED  ", Message::IgnoredInState)]
    #[case(
        "nf_ct_proto_6: packet (index 4, dir 1) response for index 4 lower timeout to 300 ",
        Message::LoweredTimeout
    )]
    #[case("nf_ct_tcp: bad checksum ", Message::BadChecksum)]
    #[case("nf_ct_proto_6: invalid new ", Message::InvalidNew)]
    #[case("nf_ct_proto_6: text of a later kernel ", Message::Other)]
    fn messages_of_all_log_formats(#[case] words: &str, #[case] expected: Message) {
        let Some((Line::Packet(logged), 1)) = parse(&format!("{words}{PACKET}")) else { panic!("{words}") };
        assert_eq!(logged.message, expected);
        let (src, dst) = logged.endpoints.unwrap();
        assert_eq!((src.to_string(), dst.to_string()), ("192.0.2.2:443".to_owned(), "192.0.2.1:34567".to_owned()));
        assert!(!logged.own_reset);
    }

    /// A line of an incident's write-up: fields in another order, and no interfaces.
    #[test]
    fn a_line_from_the_field() {
        let line = "nf_ct_proto_6: invalid packet ignored in state ESTABLISHED SRC=10.47.217.34 DST=192.168.0.17 LEN=60 DF \
                    SPT=443 DPT=47832 SEQ=389276 ACK=3130 WINDOW=65160 ACK SYN";
        let Some((Line::Packet(logged), 1)) = parse(line) else { panic!() };
        assert_eq!(logged.message, Message::IgnoredInState);
        assert_eq!(logged.endpoints.unwrap().0.to_string(), "10.47.217.34:443");
    }

    #[test]
    fn ipv6_and_the_gateways_own_reset() {
        let line = "nf_ct_proto_6: invalid new IN= OUT=wan0 SRC=2001:0db8:0000:0000:0000:0000:0000:0001 \
                    DST=2001:0db8:0000:0000:0000:0000:0000:0002 LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=TCP SPT=34567 DPT=443 \
                    SEQ=1 ACK=0 WINDOW=0 RES=0x00 RST URGP=0";
        let Some((Line::Packet(logged), 1)) = parse(line) else { panic!() };
        assert!(logged.own_reset);
        assert_eq!(logged.endpoints.unwrap().0.to_string(), "[2001:db8::1]:34567");
    }

    #[rstest]
    #[case("Aug 20 10:16:41 kernel: nf_conntrack: expectation table full", Some(Line::ExpectationTableFull))]
    #[case("Dec  6 21:37:47 vm kernel: ip_conntrack: table full, dropping packet.", Some(Line::TableFull { netns: None }))]
    #[case("Dec  6 21:37:49 vm last message repeated 9 times", Some(Line::Repeated(9)))]
    #[case("nf_conntrack: nf_conntrack: table full, dropping packet", Some(Line::TableFull { netns: None }))]
    #[case("nf_conntrack: table full, dropping packet", Some(Line::TableFull { netns: None }))]
    #[case("nf_conntrack: falling back to vmalloc.", Some(Line::Other))]
    #[case(
        "nf_conntrack: table full in netns 4026532192, dropping packet",
        Some(Line::TableFull { netns: Some(4_026_532_192) })
    )]
    #[case("usb 1-1: new high-speed USB device", None)]
    #[case("", None)]
    fn lines_about_tables(#[case] line: &str, #[case] expected: Option<Line>) {
        assert_eq!(parse(line), expected.map(|line| (line, 1)));
    }

    #[test]
    fn lines_that_syslog_has_counted() {
        let line = "Dec  6 21:37:49 vm kernel: message repeated 12 times: [ nf_conntrack: table full, dropping packet]";
        assert_eq!(parse(line), Some((Line::TableFull { netns: None }, 12)));
    }

    proptest! {
        #[test]
        fn any_line(text in ".{0,200}", mark in prop::sample::select(vec!["", "nf_ct_proto_6: ", "nf_conntrack: "])) {
            if let Some((Line::Packet(logged), _)) = parse(&format!("{mark}{text}")) {
                prop_assert!(logged.words.chars().all(|letter| letter == ' ' || letter.is_ascii_graphic()));
            }
        }
    }
}
