//! Reads a `sk_buff`: its headers, in the linear part or in a fragment, its route and its conntrack entry.

use tracer_common::hook::Hook;
use tracer_common::layout::ABSENT;
use tracer_common::ratelimit::Key;
use tracer_common::wire::{Record, present};

use crate::kernel::{Address, Failed, offset, page_address};

/// `RTN_LOCAL` of `rtable.rt_type`: the route delivers to this host.
const RTN_LOCAL: u16 = 2;
/// `RTF_LOCAL` of `rt6_info.rt6i_flags`: the same for IPv6.
const RTF_LOCAL: u32 = 0x8000_0000;
/// `RTCF_BROADCAST | RTCF_MULTICAST` of `rtable.rt_flags`.
const RTCF_TO_MANY: u32 = 0x1000_0000 | 0x2000_0000;
/// `SKB_DST_NOREF`: the low bit of `_skb_refdst`.
const SKB_DST_NOREF: u64 = 1;
/// `NFCT_INFOMASK`: the low bits of `_nfct`.
const NFCT_INFOMASK: u64 = 7;
/// RST in the flags byte of a TCP header.
const TCP_RST: u8 = 0x04;
/// Bytes of a TCP header without options.
const TCP_MIN: u32 = 20;
/// Bytes of an IPv6 header without extensions.
const IPV6_HEADER: u32 = 40;

/// A packet, and the addresses of its headers.
pub(crate) struct Skb {
    buffer: Address,
    network: Address,
    version: u8,
    transport: Transport,
}

/// The location of the TCP header.
#[derive(Clone, Copy)]
struct Transport {
    /// Its address, or null where it was not found.
    address: Address,
    /// Readable bytes at the address.
    readable: u32,
    /// Bytes from its start to the end of the packet.
    length: u32,
    /// The header is in the first fragment, not in the linear part.
    in_fragment: bool,
}

impl Skb {
    /// Finds the headers.
    #[inline(always)]
    pub(crate) fn new(skb: Address) -> Self {
        let head = skb.follow(offset!(skb_head));
        let network = head.plus(u64::from(skb.read::<u16>(offset!(skb_network_header))));
        let version = network.read::<u8>(0) >> 4;
        let header = if version == 6 { after_v6(network) } else { after_v4(network) };
        Self { buffer: skb, network, version, transport: locate(skb, head, header) }
    }

    /// `skb->dev`; null where the stack has cleared it.
    #[inline(always)]
    pub(crate) fn device(&self) -> Address {
        self.buffer.follow(offset!(skb_dev))
    }

    /// The packet's conntrack entry, or null.
    #[inline(always)]
    pub(crate) fn conntrack(&self) -> Address {
        self.buffer.follow(offset!(skb_nfct)).without(NFCT_INFOMASK)
    }

    /// The network namespace of the packet's route.
    #[inline(always)]
    pub(crate) fn route_net(&self) -> Address {
        self.route().follow(offset!(dst_dev)).follow(offset!(dev_net))
    }

    /// The network namespace of `skb->dev`.
    #[inline(always)]
    pub(crate) fn device_net(&self) -> Address {
        self.device().follow(offset!(dev_net))
    }

    /// Whether the segment is itself a RST.
    #[inline(always)]
    pub(crate) fn is_reset(&self) -> bool {
        self.transport.address.read::<u8>(13) & TCP_RST != 0
    }

    /// Whether the route delivers to this host, as `tcp_v4_send_reset` and `tcp_v6_send_reset` check it.
    #[inline(always)]
    pub(crate) fn is_for_this_host(&self, hook: Hook) -> bool {
        let route = self.route();
        match hook {
            Hook::ResetV6 => route.read::<u32>(offset!(rt6_flags)) & RTF_LOCAL != 0,
            _ => route.read::<u16>(offset!(rt_type)) == RTN_LOCAL,
        }
    }

    /// Whether this is an IPv4 fragment other than the first.
    #[inline(always)]
    pub(crate) fn is_later_fragment(&self) -> bool {
        const OFFSET: u16 = 0x1fff;
        self.version == 4 && u16::from_be_bytes(self.network.read(6)) & OFFSET != 0
    }

    /// Whether an IPv4 packet's route leads to a broadcast or multicast address.
    #[inline(always)]
    pub(crate) fn is_to_many(&self) -> bool {
        self.version == 4 && self.route().read::<u32>(offset!(rt_flags)) & RTCF_TO_MANY != 0
    }

    /// The rate limit's key of an event of this packet.
    ///
    /// It has no branch: offset and length of the addresses are computed from the version.
    #[inline(always)]
    pub(crate) fn key(&self, hook: Hook, netns: u32, class: u32) -> Key {
        let version = self.version;
        let mut key = Key {
            src: [0; 16],
            dst: [0; 16],
            sport: self.transport.address.read(0),
            dport: self.transport.address.read(2),
            netns,
            class,
            hook: hook as u16,
            version: u16::from(version),
        };
        // 4 is 0b100 and 6 is 0b110.
        let is_v6 = u32::from(version >> 1 & 1);
        let (at, length) = (12 - 4 * is_v6, 4 + 12 * is_v6);
        self.network.plus(u64::from(at)).copy_address(&mut key.src, length);
        self.network.plus(u64::from(at + length)).copy_address(&mut key.dst, length);
        key
    }

    /// Whether the packet belongs to an entry that an earlier packet created.
    #[inline(always)]
    pub(crate) fn is_tracked(&self) -> bool {
        const NEW: u64 = 2;
        let nfct = self.buffer.follow(offset!(skb_nfct)).number();
        nfct & !NFCT_INFOMASK != 0 && nfct & NFCT_INFOMASK != NEW
    }

    /// The class of a RST that answers this segment: the kernel's reset reason, whether a socket answers, and the segment's
    /// `ctinfo`.
    #[inline(always)]
    pub(crate) fn class_of_answer(&self, sk: Address, reason: Address) -> u32 {
        let nfct = self.buffer.follow(offset!(skb_nfct)).number();
        let has_entry = u32::from(nfct & !NFCT_INFOMASK != 0);
        let by_socket = u32::from(!sk.is_null());
        (reason.number() as u32 & 0xffff) | by_socket << 16 | has_entry << 17 | ((nfct & NFCT_INFOMASK) as u32) << 18
    }

    /// The buffer's address.
    #[inline(always)]
    pub(crate) fn number(&self) -> u64 {
        self.buffer.number()
    }

    /// Writes headers, lengths and marks into a record.
    #[inline(always)]
    pub(crate) fn write(&self, to: &mut Record) -> Failed {
        to.skb = self.buffer.number();
        to.mark = self.buffer.read(offset!(skb_mark));
        to.in_index = self.buffer.read(offset!(skb_iif));
        if !self.buffer.load(offset!(skb_nfct), &mut to.nfct).any() {
            to.present |= present::NFCT;
        }
        let l3 = if self.version == 6 { IPV6_HEADER } else { u32::from(self.network.read::<u8>(0) & 0xf) * 4 };
        to.l3_len = self.network.copy(&mut to.l3, l3);
        if to.l3_len != 0 {
            to.present |= present::L3;
        }
        let transport = self.transport;
        // The data offset counts in words of four bytes, from the high half of its byte.
        let header = u32::from(transport.address.read::<u8>(12) >> 4) * 4;
        let header = if header < TCP_MIN { TCP_MIN } else { header };
        let readable = if header < transport.readable { header } else { transport.readable };
        to.l4_len = transport.address.copy(&mut to.l4, readable);
        if to.l4_len != 0 {
            to.present |= present::L4;
        }
        if transport.in_fragment {
            to.present |= present::FROM_FRAGMENT;
        }
        to.payload_len = transport.length.saturating_sub(header);
        if to.l3_len == 0 || to.l4_len == 0 { Failed::YES } else { Failed::NO }
    }

    #[inline(always)]
    fn route(&self) -> Address {
        self.buffer.follow(offset!(skb_refdst)).without(SKB_DST_NOREF)
    }
}

/// The address of an IPv4 packet's TCP header in a linear buffer.
#[inline(always)]
fn after_v4(network: Address) -> Address {
    network.plus(u64::from(network.read::<u8>(0) & 0xf) * 4)
}

/// The address of an IPv6 packet's TCP header in a linear buffer: behind up to six extension headers of RFC 8200 §4, as many
/// as may precede it.
#[inline(always)]
fn after_v6(network: Address) -> Address {
    const HOP_BY_HOP: u8 = 0;
    const TCP: u8 = 6;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    let mut next = network.read::<u8>(6);
    let mut at = network.plus(u64::from(IPV6_HEADER));
    for _ in 0..6 {
        let words = u64::from(at.read::<u8>(1));
        let length = match next {
            TCP => return at,
            HOP_BY_HOP | ROUTING | DESTINATION => (words + 1) * 8,
            FRAGMENT => 8,
            AUTHENTICATION => (words + 2) * 4,
            _ => return Address::NULL,
        };
        next = at.read::<u8>(0);
        at = at.plus(length);
    }
    Address::NULL
}

/// Turns an address in a linear buffer into the location of the bytes.
#[inline(always)]
fn locate(skb: Address, head: Address, header: Address) -> Transport {
    let len = u64::from(skb.read::<u32>(offset!(skb_len)));
    let in_fragments = u64::from(skb.read::<u32>(offset!(skb_data_len)));
    // Above the network layer `data` is past the network header: then this is negative.
    let skipped = header.number().wrapping_sub(skb.follow(offset!(skb_data)).number());
    let length = len.wrapping_sub(skipped) as u32;
    let linear = len.wrapping_sub(in_fragments).wrapping_sub(skipped);
    if linear.cast_signed() > 0 {
        return Transport { address: header, readable: linear as u32, length, in_fragment: false };
    }
    first_fragment(skb, head, linear.wrapping_neg(), length)
}

/// The location of the header in the first fragment, `skip` bytes from its start.
#[inline(always)]
fn first_fragment(skb: Address, head: Address, skip: u64, length: u32) -> Transport {
    let absent = Transport { address: Address::NULL, readable: 0, length, in_fragment: true };
    if [offset!(skb_end), offset!(shinfo_frags), offset!(page_size)].contains(&ABSENT) {
        return absent;
    }
    // `sk_buff.end` is an offset on 64-bit kernels (NET_SKBUFF_DATA_USES_OFFSET).
    let shared = head.plus(u64::from(skb.read::<u32>(offset!(skb_end))));
    let frag = shared.plus(u64::from(offset!(shinfo_frags)));
    let page = frag.follow(offset!(frag_page));
    let size = u64::from(frag.read::<u32>(offset!(frag_len)));
    // The low bit of a netmem_ref marks one that is not a page.
    if shared.read::<u8>(offset!(shinfo_nr_frags)) == 0 || page.number() & 1 != 0 || skip >= size {
        return absent;
    }
    let start = page_address(page, offset!(page_size));
    if start.is_null() {
        return absent;
    }
    let address = start.plus(u64::from(frag.read::<u32>(offset!(frag_offset))) + skip);
    Transport { address, readable: (size - skip) as u32, length, in_fragment: true }
}
