//! Messages and attributes of nftables that several readers know, by their names in
//! `include/uapi/linux/netfilter/nf_tables.h`.

use tracer_model::ruleset::Family;

/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message's type.
const SUBSYSTEM: u16 = 10 << 8;
pub(super) const NFT_MSG_GETTABLE: u16 = SUBSYSTEM | 1;
pub(super) const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | 4;
pub(super) const NFT_MSG_GETRULE: u16 = SUBSYSTEM | 7;
pub(super) const NFT_MSG_GETSET: u16 = SUBSYSTEM | 0xa;
pub(super) const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM | 0xd;
pub(super) const NFT_MSG_GETGEN: u16 = SUBSYSTEM | 0x10;

pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;

/// A family's number and a table's name.
pub(super) type Table = (u8, String);

/// `NFPROTO_*` of tables.
pub(super) const INET: u8 = 1;
pub(super) const ARP: u8 = 3;
pub(super) const NETDEV: u8 = 5;
pub(super) const BRIDGE: u8 = 7;

/// The families whose rules are read. Those of ARP, bridges and devices do not call `nf_send_reset`, and conntrack has not
/// seen their packets yet.
pub(super) const fn family(number: u8) -> Option<Family> {
    match number {
        INET => Some(Family::Inet),
        2 => Some(Family::Ip),
        10 => Some(Family::Ip6),
        _ => None,
    }
}
