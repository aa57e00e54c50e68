//! Watching the RSTs that arrive, for `--tap`. Nothing is left behind however the program ends.
//!
//! Where interfaces take links at their ingress (tcx, 6.6 and later), those end with the process. Before, packet sockets do:
//! two per network namespace, for IPv4 and IPv6, on all its interfaces. They are there for their filter, a BPF program that
//! lets nothing into them. A socket of a single protocol is given what arrives for the IP stack and nothing that leaves
//! (`packet_create`, `dev_add_pack`; 5.10). A clsact qdisc would outlive a program that is killed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, SocketFilter, TcAttachType};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::live::refused;
use crate::kernel::netns::enter;

/// `ETH_P_IP` and `ETH_P_IPV6` (`include/uapi/linux/if_ether.h`).
const ETHER_TYPES: [u16; 2] = [0x0800, 0x86dd];
/// An interface whose packets come from this host itself.
const LOOPBACK: &str = "lo";

/// The tap, in the namespaces that it is wanted in.
#[derive(Debug)]
pub(super) struct Tap {
    namespaces: Vec<u32>,
    sockets: Vec<OwnedFd>,
    interfaces: BTreeSet<(u32, String)>,
}

impl Tap {
    /// A tap that is not open yet, for the namespaces with these inode numbers.
    pub(super) fn new(namespaces: Vec<u32>) -> Self {
        Self { namespaces, sockets: Vec::new(), interfaces: BTreeSet::new() }
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

    /// Attaches to the interfaces that have come since the last time.
    pub(super) fn attach_links(&mut self, program: &mut SchedClassifier) -> Result<(), String> {
        for netns in &self.namespaces {
            let known = &mut self.interfaces;
            let attached = enter(*netns, || {
                let present = interfaces().map_err(|error| format!("/proc/net/dev: {error}"))?;
                known.retain(|(of, name)| of != netns || present.contains(name));
                for name in present {
                    if known.contains(&(*netns, name.clone())) {
                        continue;
                    }
                    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                    let attached = program.attach_with_options(&name, TcAttachType::Ingress, order);
                    attached.map_err(|error| refused(&format!("attach to {name}"), &error))?;
                    known.insert((*netns, name));
                }
                Ok::<(), String>(())
            });
            attached.map_err(|error| format!("network namespace {netns}: {error}"))??;
        }
        Ok(())
    }

    /// Closes the sockets. The links end with their program.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
    }
}

/// The interfaces of the namespace that the calling thread is in; /sys/class/net shows those of another one.
fn interfaces() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    Ok(names.filter(|name| name != LOOPBACK).collect())
}

fn packet_socket(ether_type: u16) -> io::Result<OwnedFd> {
    // A packet socket takes its protocol in network byte order.
    let protocol = NonZeroU32::new(u32::from(ether_type.to_be())).map(Protocol::from_raw);
    Ok(socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?)
}
