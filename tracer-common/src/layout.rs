//! Byte offsets of the kernel fields that the hooks read. The loader resolves them from BTF and passes them to the programs
//! as one read-only global.
//!
//! Rust's BPF target emits no CO-RE relocations, so nothing here may be assumed: an offset that the kernel's BTF does
//! not have is [`ABSENT`], and the record lacks every field that depends on it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Name of the read-only global.
pub const GLOBAL: &str = "LAYOUT";

/// The offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// The argument that is a variadic log function's format string.
pub mod format_argument {
    /// Third argument: `nf_ct_l4proto_log_invalid(skb, ct, fmt, …)`, 5.10.
    pub const THIRD: u32 = 2;
    /// Fourth argument: `(skb, ct, state, fmt, …)`, and `nf_l4proto_log_invalid(skb, state, protonum, fmt, …)`; 5.15.
    pub const FOURTH: u32 = 3;
    /// Fifth argument: `nf_l4proto_log_invalid(skb, net, pf, protonum, fmt, …)`, 5.10.
    pub const FIFTH: u32 = 4;
    /// The kernel's BTF does not describe the function: the program examines the memory that the arguments point to.
    pub const LOOK: u32 = super::ABSENT;
}

macro_rules! layout {
    ($($(#[doc = $doc:literal])* $field:ident,)*) => {
        /// Byte offsets into kernel structures, and a few other numbers that differ between kernels.
        ///
        /// A field named `structure_member` is the offset of `member` in `struct structure`. All are native-endian.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct Layout {
            $($(#[doc = $doc])* pub $field: u32,)*
        }

        impl Layout {
            /// A layout in which every field is [`ABSENT`].
            pub const UNKNOWN: Self = Self { $($field: ABSENT,)* };

            /// Name and value of every field, in order.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u32)> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }
    };
}

layout! {
    /// `sk_buff.len`: all bytes, fragments included.
    skb_len,
    /// `sk_buff.data_len`: bytes outside the linear part.
    skb_data_len,
    /// `sk_buff.head`: start of the linear buffer.
    skb_head,
    /// `sk_buff.data`: start of the packet in it.
    skb_data,
    /// `sk_buff.network_header`: `u16` offset from `head`.
    skb_network_header,
    /// `sk_buff.end`: offset of `skb_shared_info` from `head`.
    skb_end,
    /// `sk_buff._nfct`: the entry's address and, in the low three bits, `enum ip_conntrack_info`.
    skb_nfct,
    /// `sk_buff._skb_refdst`: the route's address; bit 0 marks a route without a reference.
    skb_refdst,
    /// `sk_buff.dev`.
    skb_dev,
    /// `sk_buff.skb_iif`: index of the interface the packet came in by.
    skb_iif,
    /// `sk_buff.mark`.
    skb_mark,
    /// `skb_shared_info.nr_frags`.
    shinfo_nr_frags,
    /// `skb_shared_info.frags`.
    shinfo_frags,
    /// The page of a fragment, in `skb_frag_t` (`bv_page` or `netmem`).
    frag_page,
    /// The byte offset of a fragment in its page.
    frag_offset,
    /// The byte length of a fragment.
    frag_len,
    /// Size of `struct page`.
    page_size,
    /// `net_device.ifindex`.
    dev_ifindex,
    /// `net_device.name`.
    dev_name,
    /// `net_device.nd_net`.
    dev_net,
    /// `net.ns.inum`: the inode number of `/proc/PID/ns/net`.
    net_inum,
    /// `nf_conn.tuplehash`.
    ct_tuplehash,
    /// `nf_conn.status`.
    ct_status,
    /// `nf_conn.timeout`.
    ct_timeout,
    /// `nf_conn.zone.id`.
    ct_zone,
    /// `nf_conn.ct_net`.
    ct_net,
    /// `nf_conn.proto.tcp`.
    ct_tcp,
    /// Size of `nf_conntrack_tuple_hash`: the distance from the original tuple to the reply tuple.
    tuplehash_size,
    /// `nf_conntrack_tuple_hash.tuple`.
    tuplehash_tuple,
    /// `nf_conntrack_tuple.src.u3`.
    tuple_src_addr,
    /// `nf_conntrack_tuple.src.u`.
    tuple_src_port,
    /// `nf_conntrack_tuple.src.l3num`.
    tuple_l3num,
    /// `nf_conntrack_tuple.dst.u3`.
    tuple_dst_addr,
    /// `nf_conntrack_tuple.dst.u`.
    tuple_dst_port,
    /// `nf_conntrack_tuple.dst.protonum`.
    tuple_protonum,
    /// `ip_ct_tcp.seen`.
    tcp_seen,
    /// Size of `ip_ct_tcp_state`: the distance from one direction to the other.
    seen_size,
    /// `ip_ct_tcp_state.td_end`.
    seen_td_end,
    /// `ip_ct_tcp_state.td_maxend`.
    seen_td_maxend,
    /// `ip_ct_tcp_state.td_maxwin`.
    seen_td_maxwin,
    /// `ip_ct_tcp_state.td_maxack`.
    seen_td_maxack,
    /// `ip_ct_tcp_state.td_scale`.
    seen_td_scale,
    /// `ip_ct_tcp_state.flags`.
    seen_flags,
    /// `ip_ct_tcp.state`.
    tcp_state,
    /// `ip_ct_tcp.last_dir`.
    tcp_last_dir,
    /// `ip_ct_tcp.retrans`.
    tcp_retrans,
    /// `ip_ct_tcp.last_index`.
    tcp_last_index,
    /// `ip_ct_tcp.last_seq`.
    tcp_last_seq,
    /// `ip_ct_tcp.last_ack`.
    tcp_last_ack,
    /// `ip_ct_tcp.last_end`.
    tcp_last_end,
    /// `ip_ct_tcp.last_win`.
    tcp_last_win,
    /// `ip_ct_tcp.last_wscale`.
    tcp_last_wscale,
    /// `ip_ct_tcp.last_flags`.
    tcp_last_flags,
    /// `nf_hook_state.hook`: four bytes in 5.10 and 5.15, one byte from 6.1 on.
    state_hook,
    /// `nf_hook_state.in`.
    state_in,
    /// `nf_hook_state.out`.
    state_out,
    /// `nf_hook_state.net`.
    state_net,
    /// `sock.__sk_common.skc_state`.
    sk_state,
    /// `sock.__sk_common.skc_net`.
    sk_net,
    /// `sock.__sk_common.skc_family`.
    sk_family,
    /// `sock.__sk_common.skc_rcv_saddr`: the socket's own IPv4 address.
    sk_rcv_saddr,
    /// `sock.__sk_common.skc_daddr`: the peer's IPv4 address.
    sk_daddr,
    /// `sock.__sk_common.skc_v6_rcv_saddr`.
    sk_v6_rcv_saddr,
    /// `sock.__sk_common.skc_v6_daddr`.
    sk_v6_daddr,
    /// `inet_sock.inet_sport`: the socket's own port, network order. `skc_num` is 0 once the socket is unhashed.
    inet_sport,
    /// `sock.__sk_common.skc_dport`: the peer's port, network order.
    sk_dport,
    /// `tcp_sock.snd_nxt`.
    tp_snd_nxt,
    /// `tcp_sock.rcv_nxt`.
    tp_rcv_nxt,
    /// `dst_entry.dev`.
    dst_dev,
    /// `rtable.rt_type`.
    rt_type,
    /// `rtable.rt_flags`.
    rt_flags,
    /// `rt6_info.rt6i_flags`.
    rt6_flags,
    /// `va_format.fmt`.
    va_format_fmt,
    /// `va_format.va`.
    va_format_va,
    /// Which argument of `nf_ct_l4proto_log_invalid` is the format string, see [`format_argument`].
    ct_invalid_format,
    /// Which argument of `nf_l4proto_log_invalid` is the format string, see [`format_argument`].
    ct_malformed_format,
    /// Which argument of `tcp_send_active_reset`, from 0, is the `sk_rst_reason`.
    active_reset_reason,
    /// 1 where `tcp_v4_send_reset` and `tcp_v6_send_reset` take a `sk_rst_reason`, else 0.
    reset_has_reason,
}
