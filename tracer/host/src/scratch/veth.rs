//! Network interfaces that have only a name, in the namespace of the calling thread.
//!
//! They are pairs of veth: the module of dummy interfaces creates one in the host's own namespace as it is loaded.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::ScratchError;
use crate::nfnetlink::{put, put_string};

/// Bytes of a netlink header.
const HEADER: usize = 16;
/// `RTM_NEWLINK` (include/uapi/linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;
/// Bytes of a `struct ifinfomsg`; zeros ask for a new interface.
const IFINFOMSG: [u8; 16] = [0; 16];
/// Attributes of an interface, and of its kind (`include/uapi/linux/if_link.h`).
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// The other end (include/uapi/linux/veth.h).
const VETH_INFO_PEER: u16 = 1;

/// Creates interfaces of these names; `lo` is there.
pub(super) fn create(names: &BTreeSet<&str>) -> Result<(), ScratchError> {
    let names: Vec<&str> = names.iter().copied().filter(|name| *name != "lo").collect();
    if names.is_empty() {
        return Ok(());
    }
    let at = |what: String| |error: io::Error| ScratchError::System { step: what, error };
    let open = || {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(socket)
    };
    let socket = open().map_err(at("asking for network interfaces".to_owned()))?;
    // A name that no rule has.
    let spare = (0..=names.len()).map(|number| format!("peer{number}")).find(|name| !names.contains(&name.as_str()));
    let spare = spare.unwrap_or_default();
    for pair in names.chunks(2) {
        let (name, peer) = (pair[0], pair.get(1).copied().unwrap_or(&spare));
        let created = socket.send(&request(name, peer), 0).and_then(|_| answer(&socket.recv_from_full()?.0));
        let what = format!("creating the network interface {name}, which rules name by its index (veth)");
        created.map_err(at(what))?;
    }
    Ok(())
}

fn request(name: &str, peer: &str) -> Vec<u8> {
    let other = [&IFINFOMSG[..], &put_string(IFLA_IFNAME, peer)].concat();
    let kind = [put_string(IFLA_INFO_KIND, "veth"), put(IFLA_INFO_DATA, &put(VETH_INFO_PEER, &other))].concat();
    let mut bytes = vec![0; HEADER];
    bytes.extend(IFINFOMSG);
    bytes.extend(put_string(IFLA_IFNAME, name));
    bytes.extend(put(IFLA_LINKINFO, &kind));
    let length = bytes.len() as u32;
    let mut packet = NetlinkBuffer::new(&mut bytes);
    packet.set_length(length);
    packet.set_message_type(RTM_NEWLINK);
    packet.set_flags(NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
    bytes
}

/// The error number of an acknowledgement, negative, or zero for none.
fn answer(datagram: &[u8]) -> io::Result<()> {
    let packet = NetlinkBuffer::new_checked(datagram).map_err(io::Error::other)?;
    let code = packet.payload().first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
    match code.filter(|_| packet.message_type() == NLMSG_ERROR) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("an answer that is none")),
    }
}
