//! Watching the RSTs that arrive, for `--tap`. Nothing is left behind however the program ends.
//!
//! Where interfaces take links at their ingress (tcx, 6.6 and later), those end with the process. Before, packet sockets do:
//! two per network namespace, for IPv4 and IPv6, on all its interfaces. They are there for their filter, a BPF program that
//! lets nothing into them. A socket of a single protocol is given what arrives for the IP stack and nothing that leaves
//! (`packet_create`, `dev_add_pack`; 5.10). A clsact qdisc would outlive a program that is killed.

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
/// An interface whose packets come from this host itself.
const LOOPBACK: &str = "lo";

/// The tap, in the namespaces that it is wanted in.
#[derive(Debug)]
pub(super) struct Tap {
    namespaces: Vec<u32>,
    sockets: Vec<OwnedFd>,
    /// What is tapped, by namespace and interface number: an interface may be renamed, and another take its name.
    links: BTreeMap<(u32, u32), SchedClassifierLinkId>,
    /// What went wrong the last time: it is said once.
    wrong: BTreeSet<String>,
}

impl Tap {
    /// A tap that is not open yet, for the namespaces with these inode numbers.
    pub(super) fn new(namespaces: Vec<u32>) -> Self {
        Self { namespaces, sockets: Vec::new(), links: BTreeMap::new(), wrong: BTreeSet::new() }
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

    /// Attaches to the interfaces there are, all or none.
    pub(super) fn attach_links(&mut self, program: &mut SchedClassifier) -> Result<(), String> {
        let Some(problem) = self.follow(program).into_iter().next() else { return Ok(()) };
        let_go(program, std::mem::take(&mut self.links).into_values());
        Err(problem)
    }

    /// Attaches to interfaces that have come, and lets go of those that went. One that cannot be had is no reason to go
    /// without the others; gives what is wrong and was not before.
    pub(super) fn follow_links(&mut self, program: &mut SchedClassifier) -> Vec<String> {
        let wrong: BTreeSet<String> = self.follow(program).into_iter().collect();
        let news = wrong.difference(&self.wrong).cloned().collect();
        self.wrong = wrong;
        news
    }

    fn follow(&mut self, program: &mut SchedClassifier) -> Vec<String> {
        let mut wrong = Vec::new();
        for netns in &self.namespaces {
            let links = &mut self.links;
            let followed = enter(*netns, || follow_in(*netns, links, program)).and_then(|followed| followed);
            match followed {
                Ok(problems) => wrong.extend(problems),
                Err(error) => {
                    // What went with its namespace is not tapped any more.
                    let gone = links.extract_if(.., |(of, _), _| of == netns).map(|(_, link)| link);
                    let_go(program, gone);
                    wrong.push(format!("network namespace {netns}: {error}"));
                }
            }
        }
        wrong
    }

    /// Closes the sockets. The links end with their program.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
    }
}

/// Follows the interfaces of the namespace that the calling thread is in; gives what went wrong.
fn follow_in(
    netns: u32,
    links: &mut BTreeMap<(u32, u32), SchedClassifierLinkId>,
    program: &mut SchedClassifier,
) -> io::Result<Vec<String>> {
    let present = interfaces()?;
    let mut wrong = Vec::new();
    let gone = links.extract_if(.., |(of, index), _| *of == netns && present.iter().all(|(found, _)| found != index));
    let_go(program, gone.map(|(_, link)| link));
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
            // It may be gone again.
            Err(error) if name_to_index_here(&name).ok() == Some(index) => {
                wrong.push(refused(&format!("attach to {name}"), &error));
            }
            Err(_) => {}
        }
    }
    Ok(wrong)
}

/// Closes links: those of interfaces that went would be kept until the program ends.
fn let_go(program: &mut SchedClassifier, links: impl Iterator<Item = SchedClassifierLinkId>) {
    for link in links {
        if let Err(error) = program.detach(link) {
            tracing::debug!("letting go of an interface: {error}");
        }
    }
}

/// The interfaces of the namespace that the calling thread is in, by number and name; /sys/class/net shows those of another
/// one.
fn interfaces() -> io::Result<Vec<(u32, String)>> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    // One that is gone by now has no number.
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
