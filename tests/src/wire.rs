//! The wire: seeing every frame of an interface, and putting frames on it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use etherparse::checksum::Sum16BitWords;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
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

/// The protocol number of TCP.
const TCP: u8 = 6;
/// Where the data offset is in a TCP header, in its upper four bits.
const DATA_OFFSET: usize = 12;
/// Where the checksum is in a TCP header.
const CHECKSUM: usize = 16;

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
        self.forge_with(seq, ack, flags, &[], payload)
    }

    /// The same with TCP options.
    pub fn forge_with(
        &self,
        seq: u32,
        ack: u32,
        flags: u8,
        options: &[TcpOptionElement],
        payload: &[u8],
    ) -> Result<Self> {
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
        if !options.is_empty() {
            tcp = tcp.options(options)?;
        }
        let mut frame = Vec::with_capacity(tcp.size(payload.len()));
        tcp.write(&mut frame, payload)?;
        Self::parse(&frame).ok_or_else(|| anyhow!("the forged frame is no TCP segment"))
    }

    /// The same segment from or to other ports: to forge segments of another connection between the same stations.
    #[must_use]
    pub fn between(&self, src: SocketAddr, dst: SocketAddr) -> Self {
        Self { src, dst, ..self.clone() }
    }

    /// The same segment with a TCP checksum that is wrong.
    pub fn with_bad_checksum(mut self) -> Result<Self> {
        let at = self.tcp_offset()? + CHECKSUM;
        self.frame[at] ^= 0xff;
        Ok(self)
    }

    /// The frame with another data offset in its TCP header, in words of four bytes, and the checksum that belongs to it.
    /// It is no [`Segment`] any more: nothing that reads it finds a whole TCP header.
    pub fn frame_with_data_offset(&self, words: u8) -> Result<Vec<u8>> {
        let at = self.tcp_offset()?;
        let mut frame = self.frame.clone();
        let tcp = &mut frame[at..];
        tcp[DATA_OFFSET] = words << 4;
        tcp[CHECKSUM..CHECKSUM + 2].fill(0);
        let pseudo = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Sum16BitWords::new().add_4bytes(src.octets()).add_4bytes(dst.octets())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                Sum16BitWords::new().add_16bytes(src.octets()).add_16bytes(dst.octets())
            }
            _ => bail!("mixed address families"),
        };
        let length = u16::try_from(tcp.len())?.to_be_bytes();
        let sum = pseudo.add_2bytes([0, TCP]).add_2bytes(length).add_slice(tcp).ones_complement();
        tcp[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_ne_bytes());
        Ok(frame)
    }

    /// Where the TCP header begins in a frame without padding, as every forged one is.
    fn tcp_offset(&self) -> Result<usize> {
        let packet = SlicedPacket::from_ethernet(&self.frame)?;
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { bail!("the frame is no TCP segment") };
        Ok(self.frame.len() - tcp.slice().len())
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

/// Room for what a tap has not read yet: segments of a transfer that is over before the reading thread has its turn.
const TAP_BYTES: u32 = 8 << 20;

/// The size of receive buffers, for sockets that are opened while this lives.
struct ReceiveBuffers {
    before: String,
}

impl ReceiveBuffers {
    const PATH: &str = "/proc/sys/net/core/rmem_default";

    fn of(bytes: u32) -> Result<Self> {
        let before = fs::read_to_string(Self::PATH).context(Self::PATH)?;
        fs::write(Self::PATH, bytes.to_string()).context(Self::PATH)?;
        Ok(Self { before })
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::PATH, &self.before) {
            eprintln!("{}: {error}", Self::PATH);
        }
    }
}

impl Tap {
    /// Opens a tap on `interface` of a namespace.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let _room = ReceiveBuffers::of(TAP_BYTES)?;
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

    /// Sends a segment as it is.
    pub fn send(&self, segment: &Segment) -> Result<()> {
        self.send_frame(&segment.frame)
    }

    /// Sends a frame as it is.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send_to(frame, None).context("the tap sends nothing")?.context("sending a frame")
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

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::{Segment, flag};

    fn segment(v6: bool) -> Segment {
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 { link.ipv6([7; 16], [9; 16], 64) } else { link.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64) };
        let mut frame = Vec::new();
        ip.tcp(443, 40_000, 7, 1_000).ack(9).write(&mut frame, b"odd").unwrap();
        Segment::parse(&frame).unwrap()
    }

    #[test]
    fn the_checksum_is_that_of_the_changed_header() {
        for v6 in [false, true] {
            let segment = segment(v6).forge(11, 12, flag::ACK, b"odd").unwrap();
            assert_eq!(segment.frame_with_data_offset(5).unwrap(), segment.frame, "v6: {v6}");
            assert_ne!(segment.frame_with_data_offset(6).unwrap(), segment.frame, "v6: {v6}");
        }
    }

    #[test]
    fn only_the_checksum_is_bad() {
        let good = segment(false);
        let bad = good.clone().with_bad_checksum().unwrap();
        assert_eq!(good.frame.iter().zip(&bad.frame).filter(|(a, b)| a != b).count(), 1);
        assert_eq!(Segment::parse(&bad.frame).map(|parsed| parsed.seq), Some(good.seq));
    }
}
