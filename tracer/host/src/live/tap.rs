//! The tap on received RSTs, for `--tap`. However the process ends, it leaves nothing behind.
//!
//! From 6.6 on the tap is a link at the ingress of each interface (tcx); before, it is two packet sockets per network
//! namespace, for IPv4 and IPv6, on all its interfaces. Both end with the process, whereas a clsact qdisc would outlive a killed
//! one. The sockets serve for their filter only, a BPF program that passes no packet to them. A socket of a single protocol
//! sees the packets that the IP stack receives and none that it sends (`packet_create`, `dev_add_pack`; 5.10).

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::{fs, io};

use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, SocketFilter, TcAttachType};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::refused;
use crate::netns::enter;

/// `ETH_P_IP` and `ETH_P_IPV6` (`include/uapi/linux/if_ether.h`).
const ETHER_TYPES: [u16; 2] = [0x0800, 0x86dd];
/// The interface whose packets come from this host itself.
const LOOPBACK: &str = "lo";

/// The tap, in the chosen namespaces.
#[derive(Debug)]
pub(super) struct Tap {
    namespaces: Vec<u32>,
    sockets: Vec<OwnedFd>,
    /// The links by namespace and interface index: an interface may be renamed, and another one get its name.
    links: BTreeMap<(u32, u32), SchedClassifierLinkId>,
    /// The problems of the last time: each is reported once.
    problems: BTreeSet<String>,
}

impl Tap {
    /// A closed tap, for the namespaces with these inode numbers.
    pub(super) fn new(namespaces: Vec<u32>) -> Self {
        Self { namespaces, sockets: Vec::new(), links: BTreeMap::new(), problems: BTreeSet::new() }
    }

    /// Opens packet sockets with this filter.
    pub(super) fn open_sockets(&mut self, filter: &SocketFilter) -> Result<(), String> {
        for netns in &self.namespaces {
            for ether_type in ETHER_TYPES {
                let socket = enter(*netns, || packet_socket(ether_type)).and_then(|opened| opened);
                let socket = socket.map_err(|error| format!("opening a packet socket: {error}"))?;
                filter.attach(&socket).map_err(|error| refused("setting its filter", &error))?;
                self.sockets.push(socket);
            }
        }
        Ok(())
    }

    /// Attaches to all present interfaces, or to none.
    pub(super) fn attach_links(&mut self, program: &mut SchedClassifier) -> Result<(), String> {
        let Some(problem) = self.follow(program).into_iter().next() else { return Ok(()) };
        detach(program, std::mem::take(&mut self.links).into_values());
        Err(problem)
    }

    /// Attaches to new interfaces, and detaches from removed ones. A failure on one does not keep it from the others. Returns
    /// the problems that are new.
    pub(super) fn follow_links(&mut self, program: &mut SchedClassifier) -> Vec<String> {
        let problems: BTreeSet<String> = self.follow(program).into_iter().collect();
        let new = problems.difference(&self.problems).cloned().collect();
        self.problems = problems;
        new
    }

    fn follow(&mut self, program: &mut SchedClassifier) -> Vec<String> {
        let mut problems = Vec::new();
        for netns in &self.namespaces {
            let links = &mut self.links;
            let followed = enter(*netns, || follow_in(*netns, links, program)).and_then(|followed| followed);
            match followed {
                Ok(found) => problems.extend(found),
                Err(error) => {
                    // The interfaces were removed with their namespace.
                    let removed = links.extract_if(.., |(of, _), _| of == netns).map(|(_, link)| link);
                    detach(program, removed);
                    problems.push(format!("network namespace {netns}: {error}"));
                }
            }
        }
        problems
    }

    /// Closes the sockets. The links end with their program.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
    }
}

/// Follows the interfaces of the calling thread's namespace; returns the problems.
fn follow_in(
    netns: u32,
    links: &mut BTreeMap<(u32, u32), SchedClassifierLinkId>,
    program: &mut SchedClassifier,
) -> io::Result<Vec<String>> {
    let present = interfaces()?;
    let mut problems = Vec::new();
    let is_removed = |of: u32, index: u32| of == netns && present.iter().all(|(found, _)| *found != index);
    let removed = links.extract_if(.., |(of, index), _| is_removed(*of, *index));
    detach(program, removed.map(|(_, link)| link));
    for (index, name) in present {
        if links.contains_key(&(netns, index)) {
            continue;
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        match program.attach_with_options(&name, TcAttachType::Ingress, order) {
            Ok(link) => {
                tracing::info!("tapping {name}, interface {index}");
                links.insert((netns, index), link);
            }
            // Otherwise it was removed meanwhile.
            Err(error) if name_to_index_here(&name).ok() == Some(index) => {
                problems.push(refused(&format!("attach to {name}"), &error));
            }
            Err(_) => {}
        }
    }
    Ok(problems)
}

/// Closes links: otherwise those of removed interfaces would stay until the process ends.
fn detach(program: &mut SchedClassifier, links: impl Iterator<Item = SchedClassifierLinkId>) {
    for link in links {
        if let Err(error) = program.detach(link) {
            tracing::debug!("detaching from an interface: {error}");
        }
    }
}

/// The interfaces of the calling thread's namespace, by index and name. /sys/class/net may show those of another one.
fn interfaces() -> io::Result<Vec<(u32, String)>> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    // An interface that was removed meanwhile has no index.
    let numbered = |name: String| Some((name_to_index_here(&name).ok()?, name));
    Ok(names.filter(|name| name != LOOPBACK).filter_map(numbered).collect())
}

fn name_to_index_here(name: &str) -> io::Result<u32> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(name_to_index(&any, name)?)
}

fn packet_socket(ether_type: u16) -> io::Result<OwnedFd> {
    // A packet socket takes its protocol in network byte order.
    let protocol = NonZeroU32::new(u32::from(ether_type.to_be())).map(Protocol::from_raw);
    Ok(socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?)
}
