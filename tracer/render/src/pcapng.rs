//! pcapng export (draft-ietf-opsawg-pcapng): an interface per hook, a comment on every packet.
//!
//! Packets are IP packets without a link layer. They hold the headers that a hook read; the original length is that of the
//! whole packet. RSTs are computed, not captured, and have a comment that says so.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriteError, PcapNgWriter};

use tracer_advice::report::Report;
use tracer_common::{Hook, counter, hook};
use tracer_engine::engine::Kind;
use tracer_engine::hook_line::HookLine;
use tracer_model::capture::{HookState, Host, Origin};
use tracer_model::evidence;
use tracer_model::evidence::{Bound, Frame};
use tracer_model::time::{ClockOffset, Instant};

use super::annotated::AnnotatedEvent;
use super::plain;
use super::sentences::counted;

/// Packets in the reorder buffer. Records of two CPUs can be out of order by microseconds.
const WAITING: usize = 4_096;
/// The most bytes that a hook reads of a packet: two headers with all options.
const SNAPLEN: u32 = 2 * tracer_common::wire::HEADER_SIZE as u32;
/// The longest text in the section header, in bytes.
const LIMIT: usize = 1_024;

/// Counts of written packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Packets with the headers that a hook read.
    pub captured: u64,
    /// RSTs that were computed.
    pub computed: u64,
    /// Events without an IP header.
    pub without_headers: u64,
}

/// A pcapng file being written.
pub struct PcapNg<'r, W: Write> {
    writer: PcapNgWriter<W>,
    report: &'r Report,
    captured_only: bool,
    /// The interface of every hook.
    interfaces: [Option<u32>; hook::COUNT],
    waiting: BinaryHeap<Reverse<Packet>>,
    /// Number of the packet: keeps the order of packets with the same time.
    serial: u64,
    written: Written,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    at: Instant,
    serial: u64,
    hook: Hook,
    bound: u32,
    length: u32,
    bytes: Vec<u8>,
    comments: Vec<String>,
}

impl<'r, W: Write> PcapNg<'r, W> {
    /// Starts a file for a capture with a known report. `captured_only` omits the computed RSTs.
    pub fn start(to: W, report: &'r Report, captured_only: bool) -> io::Result<Self> {
        let mut file = Self {
            writer: PcapNgWriter::with_section_header(to, section(report)).map_err(error)?,
            report,
            captured_only,
            interfaces: [None; hook::COUNT],
            waiting: BinaryHeap::new(),
            serial: 0,
            written: Written::default(),
        };
        for line in report.hooks.iter().filter(|line| line.state == HookState::Attached && gives_packets(line.hook)) {
            file.interface(line.hook)?;
        }
        Ok(file)
    }

    /// Adds an event.
    pub fn event(&mut self, annotated: AnnotatedEvent<'_>) -> io::Result<()> {
        let event = annotated.event;
        match evidence::captured(annotated.record) {
            Some(frame) => {
                self.written.captured += 1;
                let mut comments = vec![annotated.pairs()];
                comments.extend(annotated.sentence());
                if frame.extensions_left_out > 0 {
                    let bytes = counted(u64::from(frame.extensions_left_out), "byte", "bytes");
                    comments
                        .push(format!("altered: {bytes} of IPv6 extension headers were not captured and are missing"));
                }
                self.push(annotated, frame, evidence::bound(event), comments)?;
            }
            None => self.written.without_headers += 1,
        }
        if self.captured_only || !matches!(annotated.observed.kind, Kind::Reset(..) | Kind::PeerReset(_)) {
            return Ok(());
        }
        let Some(frame) =
            event.tuple().zip(event.answer()).and_then(|(tuple, numbers)| evidence::reset(tuple.reversed(), numbers))
        else {
            return Ok(());
        };
        self.written.computed += 1;
        let of = if event.packet.is_some() { "the segment that it answers" } else { "the socket that sends it" };
        let unknown = format!(
            "reconstructed, not captured: addresses, ports, sequence numbers and flags follow from {of}; hop limit, \
             identification, traffic class and window are unknown and set to 0, options are unknown and omitted"
        );
        let mut comments = vec![unknown, annotated.pairs()];
        comments.extend(annotated.sentence());
        if matches!(&annotated.observed.kind, Kind::Reset(reset, ..) if reset.doubtful) {
            comments.push("the segment is signed: the kernel sends the RST only if it finds the key".to_owned());
        }
        self.push(annotated, frame, Bound::Out, comments)
    }

    /// Writes the remaining packets and the statistics.
    pub fn finish(mut self) -> io::Result<Written> {
        while let Some(Reverse(packet)) = self.waiting.pop() {
            self.write(packet)?;
        }
        let report = self.report;
        for line in &report.hooks {
            if let Some(interface) = self.interfaces[line.hook.index()] {
                self.writer.write_pcapng_block(statistics(interface, line, report)).map_err(error)?;
            }
        }
        self.writer.get_mut().flush()?;
        Ok(self.written)
    }

    fn push(
        &mut self,
        annotated: AnnotatedEvent<'_>,
        frame: Frame,
        bound: Bound,
        mut comments: Vec<String>,
    ) -> io::Result<()> {
        let at = annotated.event.at;
        if since_epoch(self.report.host.clock, at).1 {
            comments.push(format!("time out of range: {}", self.report.host.clock.wall(at)));
        }
        // epb_flags of draft-ietf-opsawg-pcapng: the lowest two bits are the direction.
        let bound = match bound {
            Bound::In => 1,
            Bound::Out => 2,
            Bound::Unknown => 0,
        };
        let Frame { bytes, length, .. } = frame;
        self.serial += 1;
        let hook = annotated.event.hook;
        self.waiting.push(Reverse(Packet { at, serial: self.serial, hook, bound, length, bytes, comments }));
        if self.waiting.len() > WAITING
            && let Some(Reverse(packet)) = self.waiting.pop()
        {
            self.write(packet)?;
        }
        Ok(())
    }

    fn write(&mut self, packet: Packet) -> io::Result<()> {
        let interface_id = self.interface(packet.hook)?;
        let mut options: Vec<EnhancedPacketOption<'_>> = packet.comments.into_iter().map(comment).collect();
        if packet.bound != 0 {
            options.push(EnhancedPacketOption::Flags(packet.bound));
        }
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: since_epoch(self.report.host.clock, packet.at).0,
            original_len: packet.length,
            data: Cow::Owned(packet.bytes),
            options,
        };
        self.writer.write_pcapng_block(block).map_err(error).map(drop)
    }

    /// The number of a hook's interface; the first use writes its description.
    fn interface(&mut self, hook: Hook) -> io::Result<u32> {
        if let Some(number) = self.interfaces[hook.index()] {
            return Ok(number);
        }
        let number = self.interfaces.iter().flatten().count() as u32;
        let description = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: SNAPLEN,
            options: vec![
                InterfaceDescriptionOption::IfName(hook.spec().symbol.into()),
                InterfaceDescriptionOption::IfDescription(meaning(hook).into()),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
                InterfaceDescriptionOption::IfOs(system(&self.report.host).into()),
            ],
        };
        self.writer.write_pcapng_block(description).map_err(error)?;
        self.interfaces[hook.index()] = Some(number);
        Ok(number)
    }
}

/// Whether a hook's records contain packets.
const fn gives_packets(hook: Hook) -> bool {
    !matches!(hook, Hook::EntryDestroyed | Hook::TableFull)
}

/// The meaning of a packet at a hook.
const fn meaning(hook: Hook) -> &'static str {
    match hook {
        Hook::CtInvalid => "conntrack's TCP tracker refuses the packet, or logs and accepts it",
        Hook::CtMalformed => "conntrack refuses the packet before it checks the state of its entry",
        Hook::NewRefused => "conntrack refuses the first packet of a connection",
        Hook::ResetV4 | Hook::ResetV6 | Hook::ResetTracepoint => "this host's TCP answers the packet with a RST",
        Hook::RejectV4 | Hook::RejectV6 | Hook::LinkRejectV4 | Hook::LinkRejectV6 => {
            "a REJECT rule answers the packet with a RST"
        }
        Hook::ActiveReset => "a socket of this host resets its own connection",
        Hook::PacketTap | Hook::TcxTap => "a RST arrives",
        Hook::EntryDestroyed => "conntrack destroys an entry",
        Hook::TableFull => "the conntrack table is full",
    }
}

fn system(host: &Host) -> String {
    plain::line(&format!("Linux {}", host.kernel), LIMIT)
}

fn section(report: &Report) -> SectionHeaderBlock<'static> {
    let host = &report.host;
    let wall = |at: Instant| host.clock.wall(at);
    let mut lines = vec![
        format!("host {}, Linux {}, conntrack log format {}", host.hostname, host.kernel, host.log_format),
        format!("captured from {:.6} to {:.6} by whyrst {}", wall(report.started), wall(report.ended), host.tool),
        format!(
            "{}, {} lost, {} not decoded",
            counted(report.events, "event", "events"),
            report.lost,
            report.undecodable
        ),
        "headers as the hooks read them, without payload; packets marked as reconstructed were not captured".to_owned(),
    ];
    if let Some(hidden) = report.filtered {
        lines.push(format!("filtered: {} of other flows omitted", counted(hidden, "event", "events")));
    }
    if let Origin::Recording { damage: Some(damage), .. } = &report.origin {
        lines.push(format!("the recording is damaged at byte {}: {}", damage.offset, damage.what));
    }
    let mut options = vec![
        SectionHeaderOption::OS(system(host).into()),
        SectionHeaderOption::UserApplication(concat!("whyrst ", env!("CARGO_PKG_VERSION")).into()),
    ];
    options.extend(
        lines
            .into_iter()
            .map(|line| SectionHeaderOption::Common(CommonOption::Comment(plain::line(&line, LIMIT).into()))),
    );
    SectionHeaderBlock { options, ..SectionHeaderBlock::default() }
}

fn statistics(interface_id: u32, line: &HookLine, report: &Report) -> InterfaceStatisticsBlock<'static> {
    let time = |at: Instant| since_epoch(report.host.clock, at).0;
    let count = |which: usize| line.counters.0[which];
    let mut options = vec![
        InterfaceStatisticsOption::IsbStartTime(time(line.since)),
        InterfaceStatisticsOption::IsbEndTime(time(report.ended)),
        InterfaceStatisticsOption::IsbIfRecv(line.counters.hits()),
        InterfaceStatisticsOption::IsbIfDrop(line.counters.lost()),
        InterfaceStatisticsOption::IsbUsrDeliv(count(counter::EMITTED)),
    ];
    if let HookState::Waiting { module: why } | HookState::Unavailable { because: why } = &line.state {
        let text = plain::line(&format!("not attached: {why}"), LIMIT);
        options.push(InterfaceStatisticsOption::Common(CommonOption::Comment(text.into())));
    }
    InterfaceStatisticsBlock { interface_id, timestamp: time(report.ended), options }
}

fn comment(text: String) -> EnhancedPacketOption<'static> {
    EnhancedPacketOption::Common(CommonOption::Comment(text.into()))
}

/// Unix time, and whether it is out of the format's range: nanoseconds from 1970 to 2554.
fn since_epoch(clock: ClockOffset, at: Instant) -> (Duration, bool) {
    let nanos = clock.wall(at).as_nanosecond();
    match u64::try_from(nanos) {
        Ok(nanos) => (Duration::from_nanos(nanos), false),
        Err(_) => (Duration::from_nanos(if nanos < 0 { 0 } else { u64::MAX }), true),
    }
}

fn error(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}
