//! The wire: seeing every frame of an interface, and putting frames on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use pnet_datalink::{Channel, Config, DataLinkSender};

use crate::netns::Namespace;

/// How long a wait for something on the wire lasts at most. Emulated machines are slow; nothing is ever this slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// TCP flags by their bits.
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// A TCP segment as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window, unscaled.
    pub window: u16,
    /// Payload bytes.
    pub len: u32,
    /// The whole frame.
    pub frame: Vec<u8>,
}

impl Segment {
    /// Reads a frame; `None` where it is no TCP segment.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (src, dst): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            NetSlice::Arp(_) => return None,
        };
        let TransportSlice::Tcp(tcp) = packet.transport? else { return None };
        Some(Self {
            src: SocketAddr::new(src, tcp.source_port()),
            dst: SocketAddr::new(dst, tcp.destination_port()),
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            flags: tcp.slice()[13],
            window: tcp.window_size(),
            len: u32::try_from(tcp.payload().len()).ok()?,
            frame: frame.to_vec(),
        })
    }

    /// Sequence number after the last byte, SYN and FIN included.
    pub const fn end(&self) -> u32 {
        let control = (self.flags & flag::SYN != 0) as u32 + (self.flags & flag::FIN != 0) as u32;
        self.seq.wrapping_add(self.len).wrapping_add(control)
    }

    /// The window scale that a SYN or SYN-ACK offers (RFC 7323 §2); 0 where it offers none.
    pub fn window_scale(&self) -> u32 {
        const KIND: u8 = 3;
        let Ok(packet) = SlicedPacket::from_ethernet(&self.frame) else { return 0 };
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return 0 };
        let mut rest = tcp.options();
        while let Some((&kind, after)) = rest.split_first() {
            match kind {
                0 => return 0,
                1 => rest = after,
                KIND => return after.get(1).map_or(0, |scale| u32::from(*scale)),
                _ => rest = rest.get(usize::from(*after.first().unwrap_or(&0)).max(2)..).unwrap_or_default(),
            }
        }
        0
    }

    /// Whether all these flags are set.
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// A new segment between the same endpoints and stations, with good checksums.
    pub fn forge(&self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Result<Self> {
        let [mac_dst, mac_src] = [0, 6].map(|at| <[u8; 6]>::try_from(&self.frame[at..at + 6]));
        let link = PacketBuilder::ethernet2(mac_src?, mac_dst?);
        let ip = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
            (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
            _ => bail!("mixed address families"),
        };
        let mut tcp = ip.tcp(self.src.port(), self.dst.port(), seq, self.window);
        if flags & flag::ACK != 0 {
            tcp = tcp.ack(ack);
        }
        if flags & flag::PSH != 0 {
            tcp = tcp.psh();
        }
        if flags & flag::FIN != 0 {
            tcp = tcp.fin();
        }
        if flags & flag::SYN != 0 {
            tcp = tcp.syn();
        }
        if flags & flag::RST != 0 {
            tcp = tcp.rst();
        }
        let mut frame = Vec::with_capacity(tcp.size(payload.len()));
        tcp.write(&mut frame, payload)?;
        Self::parse(&frame).ok_or_else(|| anyhow!("the forged frame is no TCP segment"))
    }
}

#[derive(Default)]
struct Seen {
    segments: Mutex<Vec<Segment>>,
    more: Condvar,
    stop: AtomicBool,
}

/// A tap on an interface: it sees all TCP segments in both directions, and sends frames.
pub struct Tap {
    seen: Arc<Seen>,
    sender: Mutex<Box<dyn DataLinkSender>>,
    reader: Option<JoinHandle<()>>,
}

impl Tap {
    /// Opens a tap on `interface` of a namespace.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let channel = namespace.enter(|| {
            let found = pnet_datalink::interfaces().into_iter().find(|found| found.name == interface);
            let found = found.with_context(|| format!("no interface {interface}"))?;
            let config = Config {
                read_timeout: Some(Duration::from_millis(100)),
                read_buffer_size: 1 << 17,
                write_buffer_size: 1 << 17,
                ..Config::default()
            };
            pnet_datalink::channel(&found, config).with_context(|| format!("opening a tap on {interface}"))
        })??;
        let Channel::Ethernet(sender, mut receiver) = channel else { bail!("{interface} is no Ethernet") };
        let seen = Arc::new(Seen::default());
        let reader = thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                while !seen.stop.load(Ordering::Relaxed) {
                    // A timeout is an error here; it is what lets the thread see that it should stop.
                    let Ok(frame) = receiver.next() else { continue };
                    if let Some(segment) = Segment::parse(frame) {
                        seen.segments.lock().unwrap_or_else(PoisonError::into_inner).push(segment);
                        seen.more.notify_all();
                    }
                }
            }
        });
        Ok(Self { seen, sender: Mutex::new(sender), reader: Some(reader) })
    }

    /// Sends a frame as it is.
    pub fn send(&self, segment: &Segment) -> Result<()> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send_to(&segment.frame, None).context("the tap sends nothing")?.context("sending a frame")
    }

    /// Waits until the segments seen so far satisfy `select`, and gives what it selects.
    pub fn wait<T>(&self, what: &str, mut select: impl FnMut(&[Segment]) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut segments = self.seen.segments.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = select(&segments) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited {PATIENCE:?} for {what}; {} segments seen", segments.len());
            }
            let (guard, _) = self.seen.more.wait_timeout(segments, left).unwrap_or_else(PoisonError::into_inner);
            segments = guard;
        }
    }

    /// The segments seen so far.
    pub fn segments(&self) -> Vec<Segment> {
        self.seen.segments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            eprintln!("a tap's reader has panicked");
        }
    }
}
