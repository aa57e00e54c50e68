//! The network interfaces of the calling thread's namespace, with their addresses.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use ipnet::IpNet;
use tracer_model::health::Link;

/// Most interfaces that are kept.
const MOST: usize = 4_096;

/// Reads them, but for loopback.
pub(crate) fn read() -> io::Result<Vec<Link>> {
    let mut links: BTreeMap<String, Link> = BTreeMap::new();
    let out = uplinks();
    for entry in getifaddrs()?.filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)) {
        if !links.contains_key(&entry.interface_name) {
            // It may have been removed since.
            let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else { continue };
            if links.len() == MOST {
                break;
            }
            let default_route = out.contains(&entry.interface_name);
            let name = entry.interface_name.clone();
            links.insert(name.clone(), Link { name, index, addresses: Vec::new(), default_route });
        }
        if let Some(link) = links.get_mut(&entry.interface_name) {
            link.addresses.extend(address(&entry));
        }
    }
    Ok(links.into_values().collect())
}

/// An address with its network; none of IPv6 that is of the link alone.
fn address(entry: &InterfaceAddress) -> Option<IpNet> {
    let (address, mask) = (entry.address.as_ref()?, entry.netmask.as_ref()?);
    let both = match (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
        (Some(address), Some(mask)) => (IpAddr::V4(address.ip()), IpAddr::V4(mask.ip())),
        _ => (IpAddr::V6(address.as_sockaddr_in6()?.ip()), IpAddr::V6(mask.as_sockaddr_in6()?.ip())),
    };
    let of_link = |address: &Ipv6Addr| address.is_unicast_link_local();
    IpNet::with_netmask(both.0, both.1).ok().filter(|net| !matches!(net.addr(), IpAddr::V6(it) if of_link(&it)))
}

/// The interfaces of default routes. A name has no white space in it (`dev_valid_name`).
pub(crate) fn uplinks() -> Vec<String> {
    let read = |file: &str| fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap_or_default();
    let (v4, v6) = (read("route"), read("ipv6_route"));
    let v4 = v4.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (*fields.get(1)? == "00000000" && *fields.get(7)? == "00000000").then(|| fields[0].to_owned())
    });
    let v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.first()?.bytes().all(|byte| byte == b'0') && *fields.get(1)? == "00";
        // A host without IPv6 routes has one that rejects everything, on lo.
        let name = *fields.last()?;
        (default && name != "lo").then(|| name.to_owned())
    });
    let mut names: Vec<String> = v4.chain(v6).collect();
    names.sort();
    names.dedup();
    names
}
