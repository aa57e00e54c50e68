//! The hook table: which kernel functions whyrst listens to, and what each call of one means.

/// A kernel function whyrst attaches to. The number is the one in [`crate::wire::Record::hook`] and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Hook {
    /// conntrack's TCP tracker has something to say about a packet whose entry is known.
    CtInvalid = 0,
    /// conntrack refuses a packet before its entry's state is looked at.
    CtMalformed = 1,
    /// The IPv4 stack answers a segment with a RST.
    ResetV4 = 2,
    /// The IPv6 stack answers a segment with a RST.
    ResetV6 = 3,
    /// A REJECT rule answers an IPv4 segment with a RST.
    RejectV4 = 4,
    /// A REJECT rule answers an IPv6 segment with a RST.
    RejectV6 = 5,
    /// A conntrack entry ends. It is remembered in the kernel until a packet comes that it would have belonged to.
    EntryGone = 6,
    /// The conntrack table is full: a new connection finds room at another's cost, or is dropped. Only counted.
    TableFull = 7,
}

/// How many hooks there are.
pub const COUNT: usize = 8;

/// What the table says about one hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The word used for it in every output. Both address families of a hook share it.
    pub name: &'static str,
    /// The kernel function.
    pub symbol: &'static str,
    /// Parts that compilers split off the function and that all its callers in the same file use instead. Where the
    /// kernel has one, that is what the program is attached to: it is run in every case, the function itself is not.
    pub parts: &'static [&'static str],
    /// The module the function lives in, unless it is built in.
    pub module: Option<&'static str>,
    /// The BPF program that is attached to it.
    pub program: &'static str,
    /// Where `program` runs when the function returns: the program that runs before, at its entry.
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
        Self::EntryGone,
        Self::TableFull,
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
            6 => Self::EntryGone,
            7 => Self::TableFull,
            _ => return None,
        })
    }

    /// The number, as an index.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What the table says about it.
    pub const fn spec(self) -> &'static Spec {
        &SPECS[self as usize]
    }

    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }
}

const SPECS: [Spec; COUNT] = [
    Spec {
        name: "ct-invalid",
        symbol: "nf_ct_l4proto_log_invalid",
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
        parts: &[],
        module: None,
        program: "reset_v4",
        at_entry: None,
        prototypes: RESET,
    },
    Spec {
        name: "reset",
        symbol: "tcp_v6_send_reset",
        parts: &[],
        module: None,
        program: "reset_v6",
        at_entry: None,
        prototypes: RESET,
    },
    Spec {
        name: "reject",
        symbol: "nf_send_reset",
        parts: &[],
        module: Some("nf_reject_ipv4"),
        program: "reject_v4",
        at_entry: None,
        prototypes: REJECT,
    },
    Spec {
        name: "reject",
        symbol: "nf_send_reset6",
        parts: &[],
        module: Some("nf_reject_ipv6"),
        program: "reject_v6",
        at_entry: None,
        prototypes: REJECT,
    },
    Spec {
        name: "entry-gone",
        symbol: "nf_ct_delete",
        // 5.10 and 7.2, as Debian builds them
        parts: &["nf_ct_delete.part.0"],
        module: Some("nf_conntrack"),
        program: "entry_gone",
        at_entry: None,
        prototypes: &[
            // 5.10 and later
            "bool (struct nf_conn *ct, u32 portid, int report)",
        ],
    },
    Spec {
        name: "table-full",
        symbol: "early_drop",
        parts: &[],
        module: Some("nf_conntrack"),
        program: "table_full",
        at_entry: Some("table_search"),
        prototypes: &[
            // 5.10 and later
            "int (struct net *net, unsigned int hash)",
        ],
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
