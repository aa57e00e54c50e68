//! The hook table: the kernel functions that whyrst attaches to, and the event that a call of each one is.

/// A kernel function that whyrst attaches to. Its number is in [`crate::wire::Record::hook`] and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Hook {
    /// conntrack's TCP tracker logs a packet that has an entry.
    CtInvalid = 0,
    /// conntrack logs a packet before it looks at the state of an entry.
    CtMalformed = 1,
    /// The IPv4 stack answers a segment with a RST.
    ResetV4 = 2,
    /// The IPv6 stack answers a segment with a RST.
    ResetV6 = 3,
    /// A REJECT rule answers an IPv4 segment with a RST.
    RejectV4 = 4,
    /// A REJECT rule answers an IPv6 segment with a RST.
    RejectV6 = 5,
    /// conntrack destroys an entry. The program keeps it for a later packet that would have belonged to it.
    EntryDestroyed = 6,
    /// A new connection finds the conntrack table full: the kernel evicts an entry or drops the packet. Only counted.
    TableFull = 7,
    /// A socket of this host resets its connection without a segment to answer.
    ActiveReset = 8,
    /// The IP stack receives a RST. Only with `--tap`, where the kernel has no tcx (before 6.6).
    PacketTap = 9,
    /// A REJECT rule on a bridge or at an interface's ingress answers an IPv4 segment with a RST.
    LinkRejectV4 = 10,
    /// The same for IPv6.
    LinkRejectV6 = 11,
    /// conntrack refuses the first packet of a connection. Only with `--new-refused`.
    NewRefused = 12,
    /// The TCP stack sends a RST. Only where the kernel has no kprobes.
    ResetTracepoint = 13,
    /// An interface receives a RST. Only with `--tap`.
    TcxTap = 14,
}

/// Number of hooks.
pub const COUNT: usize = 15;

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A kprobe at the function's entry.
    Kprobe,
    /// A kretprobe at the function's return; a kprobe at the entry keeps the arguments that it needs.
    Kretprobe,
    /// The filter of packet sockets.
    SocketFilter,
    /// A raw tracepoint.
    RawTracepoint,
    /// A link at the ingress of interfaces (tcx).
    Tcx,
}

impl Method {
    /// Its name in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::SocketFilter => "socket-filter",
            Self::RawTracepoint => "raw-tracepoint",
            Self::Tcx => "tcx",
        }
    }
}

/// One row of the hook table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// Its name in every output. Both address families of a hook share it.
    pub name: &'static str,
    /// The kernel function; for other methods, the point of attachment.
    pub symbol: &'static str,
    /// How the program is attached.
    pub method: Method,
    /// Parts that compilers split off the function, and that all its callers in the same file call instead. Where the
    /// kernel has one, the program is attached to it: every call runs the part, but not every call runs the function.
    pub parts: &'static [&'static str],
    /// The module the function lives in, unless it is built in.
    pub module: Option<&'static str>,
    /// The BPF program.
    pub program: &'static str,
    /// Where `program` runs at the function's return: the program that runs at its entry.
    pub at_entry: Option<&'static str>,
    /// Its C prototypes from the oldest supported kernel to the newest, one per shape. A test compares them with the
    /// BTF of every kernel in the matrix.
    pub prototypes: &'static [&'static str],
}

impl Hook {
    /// Every hook, by number.
    pub const ALL: [Self; COUNT] = [
        Self::CtInvalid,
        Self::CtMalformed,
        Self::ResetV4,
        Self::ResetV6,
        Self::RejectV4,
        Self::RejectV6,
        Self::EntryDestroyed,
        Self::TableFull,
        Self::ActiveReset,
        Self::PacketTap,
        Self::LinkRejectV4,
        Self::LinkRejectV6,
        Self::NewRefused,
        Self::ResetTracepoint,
        Self::TcxTap,
    ];

    /// The hook with this number.
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::CtInvalid,
            1 => Self::CtMalformed,
            2 => Self::ResetV4,
            3 => Self::ResetV6,
            4 => Self::RejectV4,
            5 => Self::RejectV6,
            6 => Self::EntryDestroyed,
            7 => Self::TableFull,
            8 => Self::ActiveReset,
            9 => Self::PacketTap,
            10 => Self::LinkRejectV4,
            11 => Self::LinkRejectV6,
            12 => Self::NewRefused,
            13 => Self::ResetTracepoint,
            14 => Self::TcxTap,
            _ => return None,
        })
    }

    /// The number, as an index.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its row of the table.
    pub const fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// Its name in every output.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// Whether its records are of a REJECT rule.
    pub const fn is_reject(self) -> bool {
        matches!(self, Self::RejectV4 | Self::RejectV6 | Self::LinkRejectV4 | Self::LinkRejectV6)
    }
}

const SPECS: [Spec; COUNT] = [
    Spec {
        name: "ct-invalid",
        symbol: "nf_ct_l4proto_log_invalid",
        method: Method::Kprobe,
        parts: &[],
        module: Some("nf_conntrack"),
        program: "ct_invalid",
        at_entry: None,
        prototypes: &[
            // 5.10
            "void (const struct sk_buff *skb, const struct nf_conn *ct, const char *fmt, ...)",
            // 5.15 and later
            "void (const struct sk_buff *skb, const struct nf_conn *ct, const struct nf_hook_state *state, \
             const char *fmt, ...)",
        ],
    },
    Spec {
        name: "ct-malformed",
        symbol: "nf_l4proto_log_invalid",
        method: Method::Kprobe,
        parts: &[],
        module: Some("nf_conntrack"),
        program: "ct_malformed",
        at_entry: None,
        prototypes: &[
            // 5.10
            "void (const struct sk_buff *skb, struct net *net, u16 pf, u8 protonum, const char *fmt, ...)",
            // 5.15 and later
            "void (const struct sk_buff *skb, const struct nf_hook_state *state, u8 protonum, const char *fmt, ...)",
        ],
    },
    Spec {
        name: "reset",
        symbol: "tcp_v4_send_reset",
        method: Method::Kprobe,
        parts: &[],
        module: None,
        program: "reset_v4",
        at_entry: None,
        prototypes: RESET,
    },
    Spec {
        name: "reset",
        symbol: "tcp_v6_send_reset",
        method: Method::Kprobe,
        parts: &[],
        module: None,
        program: "reset_v6",
        at_entry: None,
        prototypes: RESET,
    },
    Spec {
        name: "reject",
        symbol: "nf_send_reset",
        method: Method::Kprobe,
        parts: &[],
        module: Some("nf_reject_ipv4"),
        program: "reject_v4",
        at_entry: None,
        prototypes: REJECT,
    },
    Spec {
        name: "reject",
        symbol: "nf_send_reset6",
        method: Method::Kprobe,
        parts: &[],
        module: Some("nf_reject_ipv6"),
        program: "reject_v6",
        at_entry: None,
        prototypes: REJECT,
    },
    Spec {
        name: "entry-destroyed",
        symbol: "nf_ct_delete",
        method: Method::Kprobe,
        // 5.10 and 7.2, as Debian builds them
        parts: &["nf_ct_delete.part.0"],
        module: Some("nf_conntrack"),
        program: "entry_destroyed",
        at_entry: None,
        prototypes: &[
            // 5.10 and later
            "bool (struct nf_conn *ct, u32 portid, int report)",
        ],
    },
    Spec {
        name: "table-full",
        symbol: "early_drop",
        method: Method::Kretprobe,
        parts: &[],
        module: Some("nf_conntrack"),
        program: "table_full",
        at_entry: Some("table_search"),
        prototypes: &[
            // 5.10 and later
            "int (struct net *net, unsigned int hash)",
        ],
    },
    Spec {
        name: "active-reset",
        symbol: "tcp_send_active_reset",
        method: Method::Kprobe,
        parts: &[],
        module: None,
        program: "active_reset",
        at_entry: None,
        prototypes: &[
            // 5.10 to 6.9
            "void (struct sock *sk, gfp_t priority)",
            // 6.10 to 6.12.103
            "void (struct sock *sk, gfp_t priority, enum sk_rst_reason reason)",
            // 6.12.104 and later, 7.2
            "void (struct sock *sk, enum sk_rst_reason reason)",
        ],
    },
    Spec {
        name: "tap",
        symbol: "packet socket",
        method: Method::SocketFilter,
        parts: &[],
        module: None,
        program: "packet_tap",
        at_entry: None,
        prototypes: &[],
    },
    Spec {
        name: "reject",
        symbol: "nf_reject_skb_v4_tcp_reset",
        method: Method::Kprobe,
        parts: &[],
        module: Some("nf_reject_ipv4"),
        program: "link_reject_v4",
        at_entry: None,
        prototypes: LINK_REJECT,
    },
    Spec {
        name: "reject",
        symbol: "nf_reject_skb_v6_tcp_reset",
        method: Method::Kprobe,
        parts: &[],
        module: Some("nf_reject_ipv6"),
        program: "link_reject_v6",
        at_entry: None,
        prototypes: LINK_REJECT,
    },
    Spec {
        name: "new-refused",
        symbol: "tcp_new",
        method: Method::Kretprobe,
        parts: &[],
        module: Some("nf_conntrack"),
        program: "new_refused",
        at_entry: Some("new_started"),
        prototypes: &[
            // 5.10 to 6.6
            "bool (struct nf_conn *ct, const struct sk_buff *skb, unsigned int dataoff, const struct tcphdr *th)",
            // 6.9 and later
            "bool (struct nf_conn *ct, const struct sk_buff *skb, unsigned int dataoff, const struct tcphdr *th, \
             const struct nf_hook_state *state)",
        ],
    },
    Spec {
        name: "reset",
        symbol: "tcp:tcp_send_reset",
        method: Method::RawTracepoint,
        parts: &[],
        module: None,
        program: "reset_tracepoint",
        at_entry: None,
        prototypes: &[],
    },
    Spec {
        name: "tap",
        symbol: "tcx ingress",
        method: Method::Tcx,
        parts: &[],
        module: None,
        program: "tcx_tap",
        at_entry: None,
        prototypes: &[],
    },
];

const RESET: &[&str] = &[
    // 5.10 to 6.9
    "void (const struct sock *sk, struct sk_buff *skb)",
    // 6.10 and later
    "void (const struct sock *sk, struct sk_buff *skb, enum sk_rst_reason reason)",
];

const REJECT: &[&str] = &[
    // 5.10 and later
    "void (struct net *net, struct sock *sk, struct sk_buff *oldskb, int hook)",
];

const LINK_REJECT: &[&str] = &[
    // 5.11 and later; 5.10 has none
    "struct sk_buff * (struct net *net, struct sk_buff *oldskb, const struct net_device *dev, int hook)",
];

#[cfg(test)]
mod tests {
    use super::{COUNT, Hook};

    #[test]
    fn numbers_are_indexes() {
        for (index, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook.index(), index);
            assert_eq!(Hook::from_number(u16::try_from(index).unwrap()), Some(hook));
        }
        assert_eq!(Hook::from_number(u16::try_from(COUNT).unwrap()), None);
    }
}
