//! Fills [`Layout`] from BTF: the offsets that the programs read, and the conntrack log format. The programs are not its
//! business.

use tracer_common::Layout;
use tracer_common::layout::{ABSENT, format_argument};
use tracer_model::conntrack::log_format::LogFormat;

use super::btf::{KernelBtf, Prototype, Types};

/// Resolves every offset this kernel has; the others stay [`ABSENT`].
///
/// `tracker` are the types to look for conntrack's functions in: the module's, or the image's where it is built in.
pub fn resolve(btf: &KernelBtf, tracker: Types<'_>) -> Layout {
    let types = btf.image();
    let at = |name: &str, path: &str| types.offset(name, path).unwrap_or(ABSENT);
    let size = |name: &str| types.size(name).unwrap_or(ABSENT);
    // A fragment is a `bio_vec` up to 6.8, then a struct of its own.
    let frag =
        |paths: [(&str, &str); 3]| paths.iter().find_map(|(name, path)| types.offset(name, path)).unwrap_or(ABSENT);
    Layout {
        skb_len: at("sk_buff", "len"),
        skb_data_len: at("sk_buff", "data_len"),
        skb_head: at("sk_buff", "head"),
        skb_data: at("sk_buff", "data"),
        skb_network_header: at("sk_buff", "network_header"),
        skb_end: at("sk_buff", "end"),
        skb_nfct: at("sk_buff", "_nfct"),
        skb_refdst: at("sk_buff", "_skb_refdst"),
        skb_dev: at("sk_buff", "dev"),
        skb_iif: at("sk_buff", "skb_iif"),
        skb_mark: at("sk_buff", "mark"),
        shinfo_nr_frags: at("skb_shared_info", "nr_frags"),
        shinfo_frags: at("skb_shared_info", "frags"),
        frag_page: frag([("skb_frag", "netmem"), ("skb_frag", "bv_page"), ("bio_vec", "bv_page")]),
        frag_offset: frag([("skb_frag", "offset"), ("skb_frag", "bv_offset"), ("bio_vec", "bv_offset")]),
        frag_len: frag([("skb_frag", "len"), ("skb_frag", "bv_len"), ("bio_vec", "bv_len")]),
        page_size: size("page"),
        dev_ifindex: at("net_device", "ifindex"),
        dev_name: at("net_device", "name"),
        dev_net: at("net_device", "nd_net.net"),
        net_inum: at("net", "ns.inum"),
        ct_tuplehash: at("nf_conn", "tuplehash"),
        ct_status: at("nf_conn", "status"),
        ct_timeout: at("nf_conn", "timeout"),
        ct_zone: at("nf_conn", "zone.id"),
        ct_net: at("nf_conn", "ct_net.net"),
        ct_tcp: at("nf_conn", "proto.tcp"),
        tuplehash_size: size("nf_conntrack_tuple_hash"),
        tuplehash_tuple: at("nf_conntrack_tuple_hash", "tuple"),
        tuple_src_addr: at("nf_conntrack_tuple", "src.u3"),
        tuple_src_port: at("nf_conntrack_tuple", "src.u"),
        tuple_l3num: at("nf_conntrack_tuple", "src.l3num"),
        tuple_dst_addr: at("nf_conntrack_tuple", "dst.u3"),
        tuple_dst_port: at("nf_conntrack_tuple", "dst.u"),
        tuple_protonum: at("nf_conntrack_tuple", "dst.protonum"),
        tcp_seen: at("ip_ct_tcp", "seen"),
        seen_size: size("ip_ct_tcp_state"),
        seen_td_end: at("ip_ct_tcp_state", "td_end"),
        seen_td_maxend: at("ip_ct_tcp_state", "td_maxend"),
        seen_td_maxwin: at("ip_ct_tcp_state", "td_maxwin"),
        seen_td_maxack: at("ip_ct_tcp_state", "td_maxack"),
        seen_td_scale: at("ip_ct_tcp_state", "td_scale"),
        seen_flags: at("ip_ct_tcp_state", "flags"),
        tcp_state: at("ip_ct_tcp", "state"),
        tcp_last_dir: at("ip_ct_tcp", "last_dir"),
        tcp_retrans: at("ip_ct_tcp", "retrans"),
        tcp_last_index: at("ip_ct_tcp", "last_index"),
        tcp_last_seq: at("ip_ct_tcp", "last_seq"),
        tcp_last_ack: at("ip_ct_tcp", "last_ack"),
        tcp_last_end: at("ip_ct_tcp", "last_end"),
        tcp_last_win: at("ip_ct_tcp", "last_win"),
        tcp_last_wscale: at("ip_ct_tcp", "last_wscale"),
        tcp_last_flags: at("ip_ct_tcp", "last_flags"),
        state_hook: at("nf_hook_state", "hook"),
        state_in: at("nf_hook_state", "in"),
        state_out: at("nf_hook_state", "out"),
        state_net: at("nf_hook_state", "net"),
        sk_state: at("sock", "__sk_common.skc_state"),
        sk_net: at("sock", "__sk_common.skc_net.net"),
        sk_family: at("sock", "__sk_common.skc_family"),
        sk_rcv_saddr: at("sock", "__sk_common.skc_rcv_saddr"),
        sk_daddr: at("sock", "__sk_common.skc_daddr"),
        sk_v6_rcv_saddr: at("sock", "__sk_common.skc_v6_rcv_saddr"),
        sk_v6_daddr: at("sock", "__sk_common.skc_v6_daddr"),
        inet_sport: at("inet_sock", "inet_sport"),
        sk_dport: at("sock", "__sk_common.skc_dport"),
        tp_snd_nxt: at("tcp_sock", "snd_nxt"),
        tp_rcv_nxt: at("tcp_sock", "rcv_nxt"),
        dst_dev: at("dst_entry", "dev"),
        rt_type: at("rtable", "rt_type"),
        rt_flags: at("rtable", "rt_flags"),
        rt6_flags: at("rt6_info", "rt6i_flags"),
        va_format_fmt: at("va_format", "fmt"),
        va_format_va: at("va_format", "va"),
        ct_invalid_format: format_position(tracker.prototype("nf_ct_l4proto_log_invalid")),
        ct_malformed_format: format_position(tracker.prototype("nf_l4proto_log_invalid")),
        active_reset_reason: types
            .prototype("tcp_send_active_reset")
            .and_then(|found| found.parameters.iter().position(|parameter| parameter == "reason"))
            .and_then(|position| u32::try_from(position).ok())
            .unwrap_or(ABSENT),
        reset_has_reason: u32::from(
            types.prototype("tcp_v4_send_reset").is_some_and(|found| found.parameters.iter().any(|p| p == "reason")),
        ),
    }
}

/// The position of the parameter `fmt`, or [`format_argument::LOOK`] where the function is not described.
fn format_position(prototype: Option<Prototype>) -> u32 {
    prototype
        .and_then(|found| found.parameters.iter().position(|parameter| parameter == "fmt"))
        .and_then(|position| u32::try_from(position).ok())
        .unwrap_or(format_argument::LOOK)
}

/// The conntrack log format, from the kernel's types.
///
/// 5.10 describes no module at all. There the absence is the evidence, and the programs confirm it by what the
/// arguments point to ([`tracer_common::wire::present::FORMAT_AFTER_STATE`]).
pub fn log_format(tracker: Option<Types<'_>>) -> LogFormat {
    let Some(types) = tracker else { return LogFormat::E1 };
    let Some(prototype) = types.prototype("nf_ct_l4proto_log_invalid") else { return LogFormat::Unknown };
    if !prototype.parameters.iter().any(|parameter| parameter == "state") {
        LogFormat::E1
    } else if types.has_type("nf_tcp_invalid_log") {
        LogFormat::E4
    } else if types.has_type("nf_ct_tcp_action") {
        LogFormat::E3
    } else {
        LogFormat::E2
    }
}
