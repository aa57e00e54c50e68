//! The sysctls of conntrack that matter to a gateway: what each does with its value here.

/// An idle time that RFC 5382 (REQ-5) asks of a NAT for established connections: 2 h 4 min, in seconds.
pub const RFC_ESTABLISHED: i64 = 7_440;
/// Likewise for connections that are being opened or closed: 4 min.
pub const RFC_TRANSITORY: i64 = 240;
/// Likewise for UDP (RFC 4787, REQ-5): 2 min.
pub const RFC_UDP: i64 = 120;

/// What a sysctl is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A switch: what it does when it is 0, when it is 1, and what other values do.
    Switch {
        /// At 0.
        off: &'static str,
        /// At 1 and more.
        on: &'static str,
    },
    /// Seconds without a packet after which an entry goes.
    Timeout {
        /// What the kernel starts with.
        default: i64,
        /// The least that an RFC asks for.
        least: Option<i64>,
    },
    /// A number.
    Size(&'static str),
}

/// A sysctl below `net.netfilter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub kind: Kind,
}

const fn switch(name: &'static str, off: &'static str, on: &'static str) -> Sysctl {
    Sysctl { name, kind: Kind::Switch { off, on } }
}

const fn timeout(name: &'static str, default: i64, least: Option<i64>) -> Sysctl {
    Sysctl { name, kind: Kind::Timeout { default, least } }
}

const fn size(name: &'static str, what: &'static str) -> Sysctl {
    Sysctl { name, kind: Kind::Size(what) }
}

/// All of them. Defaults are those of `nf_conntrack_proto_tcp.c`, `nf_conntrack_proto_udp.c` and
/// `nf_conntrack_proto_icmp.c`, the same from 5.10 to 7.2.
pub const ALL: &[Sysctl] = &[
    size("nf_conntrack_max", "entries that the table may have"),
    size("nf_conntrack_buckets", "buckets of the table, which all network namespaces share"),
    size("nf_conntrack_expect_max", "connections that helpers may wait for"),
    switch(
        "nf_conntrack_tcp_be_liberal",
        "segments out of the window are refused",
        "segments out of the window pass, forged ones too",
    ),
    switch(
        "nf_conntrack_tcp_loose",
        "a segment in the middle of an unknown connection is refused: connections do not survive a restart of this host",
        "a segment in the middle of an unknown connection opens an entry",
    ),
    switch(
        "nf_conntrack_tcp_ignore_invalid_rst",
        "a RST below what its receiver has acknowledged is refused",
        "a RST below what its receiver has acknowledged passes, and the receiver checks it",
    ),
    switch(
        "nf_conntrack_checksum",
        "checksums are not checked: damaged packets are tracked and forwarded",
        "a packet with a wrong checksum is refused",
    ),
    switch(
        "nf_conntrack_log_invalid",
        "refused packets are not logged",
        "refused packets are logged: of one protocol, or with 255 of all",
    ),
    switch(
        "nf_conntrack_events",
        "conntrack -E and conntrackd see nothing",
        "events are made for conntrack -E and conntrackd; with 2 only while somebody listens",
    ),
    switch("nf_conntrack_acct", "entries count no packets", "entries count their packets and bytes"),
    switch("nf_conntrack_timestamp", "entries do not know when they began", "entries know when they began"),
    timeout("nf_conntrack_tcp_timeout_established", 432_000, Some(RFC_ESTABLISHED)),
    timeout("nf_conntrack_tcp_timeout_syn_sent", 120, Some(RFC_TRANSITORY)),
    timeout("nf_conntrack_tcp_timeout_syn_recv", 60, Some(RFC_TRANSITORY)),
    timeout("nf_conntrack_tcp_timeout_fin_wait", 120, Some(RFC_TRANSITORY)),
    timeout("nf_conntrack_tcp_timeout_close_wait", 60, Some(RFC_TRANSITORY)),
    timeout("nf_conntrack_tcp_timeout_last_ack", 30, Some(RFC_TRANSITORY)),
    timeout("nf_conntrack_tcp_timeout_time_wait", 120, None),
    timeout("nf_conntrack_tcp_timeout_close", 10, None),
    timeout("nf_conntrack_tcp_timeout_max_retrans", 300, None),
    timeout("nf_conntrack_tcp_timeout_unacknowledged", 300, None),
    timeout("nf_conntrack_udp_timeout", 30, Some(RFC_UDP)),
    timeout("nf_conntrack_udp_timeout_stream", 120, Some(RFC_UDP)),
    timeout("nf_conntrack_icmp_timeout", 30, None),
    timeout("nf_conntrack_generic_timeout", 600, None),
];

impl Sysctl {
    /// What it does with this value.
    pub fn says(&self, value: i64) -> String {
        match self.kind {
            Kind::Switch { off, .. } if value == 0 => off.to_owned(),
            Kind::Switch { on, .. } => on.to_owned(),
            Kind::Size(what) => what.to_owned(),
            Kind::Timeout { default, least } => {
                let mut text = time(value);
                if value != default {
                    text = format!("{text}; the kernel's default is {}", time(default));
                }
                match least {
                    Some(least) if value < least => format!("{text}; less than {}", rfc(least)),
                    Some(least) => format!("{text}; at least {}", rfc(least)),
                    None => text,
                }
            }
        }
    }
}

/// What an RFC asks for.
fn rfc(least: i64) -> String {
    let rfc = if least == RFC_UDP { "RFC 4787" } else { "RFC 5382" };
    format!("the {} that {rfc} asks for", time(least))
}

/// Seconds in larger units.
pub fn time(seconds: i64) -> String {
    let parts = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut text = Vec::new();
    for (length, unit) in parts {
        if rest >= length {
            text.push(format!("{} {unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { format!("{seconds} s") } else { text.join(" ") }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{ALL, time};

    #[rstest]
    #[case("nf_conntrack_tcp_be_liberal", 0, "segments out of the window are refused")]
    #[case("nf_conntrack_tcp_timeout_established", 432_000, "5 d; at least the 2 h 4 min that RFC 5382 asks for")]
    #[case(
        "nf_conntrack_tcp_timeout_established",
        3_600,
        "1 h; the kernel's default is 5 d; less than the 2 h 4 min that RFC 5382 asks for"
    )]
    #[case("nf_conntrack_udp_timeout", 30, "30 s; less than the 2 min that RFC 4787 asks for")]
    #[case("nf_conntrack_tcp_timeout_close", 10, "10 s")]
    fn what_a_value_does(#[case] name: &str, #[case] value: i64, #[case] expected: &str) {
        let sysctl = ALL.iter().find(|sysctl| sysctl.name == name).unwrap();
        assert_eq!(sysctl.says(value), expected);
    }

    #[test]
    fn times() {
        assert_eq!([0, 59, 60, 7_440, 432_000, -1].map(time), ["0 s", "59 s", "1 min", "2 h 4 min", "5 d", "-1 s"]);
    }
}
