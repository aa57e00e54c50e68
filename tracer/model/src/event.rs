//! Events: the typed records of the hooks. Everything after [`crate::decode`] works on these and knows neither BPF nor bytes.

use std::borrow::Cow;
use std::ffi::CStr;
use std::fmt;

use tracer_common::Hook;

use crate::conntrack::{DestroyedEntry, Entry, Message, Nfct, Seq, Tuple};
use crate::packet::{Packet, ResetSegment};
use crate::time::Instant;

/// One call of a hooked kernel function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// On which CPU.
    pub cpu: u32,
    /// Which hook.
    pub hook: Hook,
    /// The address of the skb.
    pub skb: SkbId,
    /// Inode number of the network namespace, where it could be read.
    pub netns: Option<u32>,
    /// The interface the packet came in by.
    pub input: Option<Interface>,
    /// The interface it would leave by.
    pub output: Option<Interface>,
    /// The netfilter hook it was at.
    pub nf_hook: Option<NfHook>,
    /// `skb->mark`.
    pub mark: u32,
    /// The segment, where its headers could be read.
    pub packet: Option<Packet>,
    /// `skb->_nfct`.
    pub nfct: Option<Nfct>,
    /// The packet's conntrack entry.
    pub entry: Option<Entry>,
    /// The destroyed entry of the packet's connection; only where the packet has no entry, or a new one.
    pub destroyed: Option<Box<DestroyedEntry>>,
    /// The kernel's log message.
    pub words: Option<LogMessage>,
    /// The socket that answers.
    pub socket: Option<Socket>,
    /// `enum sk_rst_reason`.
    pub reset_reason: Option<u32>,
    /// How the record was made.
    pub flags: RecordFlags,
    /// The class by which suppressed events of its hook are counted; 0 in recordings without suppressed events.
    pub class: u32,
}

impl Event {
    /// The endpoints as a segment to this host has them: of the packet, or of the socket that got none.
    pub fn tuple(&self) -> Option<Tuple> {
        let own = || self.own_socket().map(|own| own.tuple.reversed());
        self.packet.map(|packet| packet.tuple()).or_else(own)
    }

    /// Sequence and acknowledgement number of the RST that the event is about.
    ///
    /// `tcp_send_active_reset` takes both from the socket (`tcp_acceptable_seq`, which is `snd_nxt` unless the peer has
    /// shrunk its window; 5.10 to 7.2).
    pub fn answer(&self) -> Option<ResetSegment> {
        let own = || self.own_socket().map(|own| ResetSegment { seq: own.snd_nxt, ack: Some(own.rcv_nxt) });
        self.packet.map(|packet| packet.answer()).or_else(own)
    }

    /// The socket's own view, where it resets its connection of its own accord.
    pub fn own_socket(&self) -> Option<&OwnSocket> {
        self.socket.as_ref()?.own.as_deref()
    }

    /// Whether a full socket sends the RST: not one of `TIME_WAIT`, nor the request for a connection.
    pub fn has_full_socket(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.state.is_full())
    }

    /// The process that made a socket reset its connection.
    pub fn process(&self) -> Option<Process> {
        self.own_socket()?.process
    }

    /// The entry of the packet's connection: the destroyed one, else the packet's own.
    pub fn connection(&self) -> Option<&Entry> {
        self.destroyed.as_ref().map(|destroyed| &destroyed.entry).or(self.entry.as_ref())
    }
}

/// The address of a `sk_buff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SkbId(pub u64);

/// A network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name, NUL-padded.
    pub name: Text<16>,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { write!(f, "if{}", self.index) } else { self.name.fmt(f) }
    }
}

/// `enum nf_inet_hooks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NfHook {
    /// Before routing.
    PreRouting,
    /// To this host.
    LocalIn,
    /// Through this host.
    Forward,
    /// From this host.
    LocalOut,
    /// After routing.
    PostRouting,
    /// A number that this table does not have.
    Unknown(u8),
}

impl NfHook {
    /// The hook with this number.
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::PreRouting,
            1 => Self::LocalIn,
            2 => Self::Forward,
            3 => Self::LocalOut,
            4 => Self::PostRouting,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for NfHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreRouting => "PREROUTING",
            Self::LocalIn => "INPUT",
            Self::Forward => "FORWARD",
            Self::LocalOut => "OUTPUT",
            Self::PostRouting => "POSTROUTING",
            Self::Unknown(raw) => return write!(f, "hook {raw}"),
        })
    }
}

/// A socket of this host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Its TCP state (`include/net/tcp_states.h`).
    pub state: SocketState,
    /// What it knows of its connection, where it resets that of its own accord and answers no segment.
    pub own: Option<Box<OwnSocket>>,
}

/// A socket's own view of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnSocket {
    /// From its own address and port to the peer's.
    pub tuple: Tuple,
    /// Next sequence number it would send.
    pub snd_nxt: Seq,
    /// Next sequence number it expects.
    pub rcv_nxt: Seq,
    /// The process that made it reset the connection; `None` where the kernel did by itself.
    pub process: Option<Process>,
}

/// A process of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Name of its task.
    pub comm: Text<16>,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.comm.is_empty() {
            write!(f, "process {}", self.pid)
        } else {
            write!(f, "{} (process {})", self.comm, self.pid)
        }
    }
}

/// The state of a socket of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketState(pub u8);

impl SocketState {
    /// It has sent a SYN and waits for the answer.
    pub const SYN_SENT: Self = Self(2);
    const TIME_WAIT: Self = Self(6);
    const NEW_SYN_RECV: Self = Self(12);

    /// Whether such a socket is a full one (`sk_fullsock`, 5.10 to 7.2).
    pub const fn is_full(self) -> bool {
        self.0 != Self::TIME_WAIT.0 && self.0 != Self::NEW_SYN_RECV.0
    }
}

impl fmt::Display for SocketState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "0",
            "ESTABLISHED",
            "SYN_SENT",
            "SYN_RECV",
            "FIN_WAIT1",
            "FIN_WAIT2",
            "TIME_WAIT",
            "CLOSE",
            "CLOSE_WAIT",
            "LAST_ACK",
            "LISTEN",
            "CLOSING",
            "NEW_SYN_RECV",
            "BOUND_INACTIVE",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "state {}", self.0),
        }
    }
}

/// The kernel's log message about a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogMessage {
    /// What they mean.
    pub message: Message,
    /// The format string.
    pub format: LogText,
    /// The string argument.
    pub text: LogText,
    /// The numeric arguments; meaningless in the place of a string.
    pub args: [u32; 3],
}

impl fmt::Display for LogMessage {
    /// As the kernel would print them: `%s`, `%u` and `%d` replaced by the arguments.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut args = self.args.iter();
        let mut pieces = self.format.as_str().split('%');
        f.write_str(pieces.next().unwrap_or_default())?;
        for piece in pieces {
            let mut rest = piece.chars();
            let arg = args.next().copied();
            match (rest.next(), arg) {
                (Some('s'), _) => self.text.fmt(f)?,
                (Some('u'), Some(number)) => number.fmt(f)?,
                (Some('d'), Some(number)) => number.cast_signed().fmt(f)?,
                (conversion, _) => write!(f, "%{}", conversion.map(String::from).unwrap_or_default())?,
            }
            f.write_str(rest.as_str())?;
        }
        Ok(())
    }
}

/// A text of conntrack's, printable as [`Text`] is. Those that kernels are known to have take no memory of their own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LogText(Cow<'static, str>);

impl LogText {
    /// The text before the first NUL.
    pub fn new(bytes: &[u8]) -> Self {
        let text = CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes);
        match Message::known_text(text) {
            Some(known) => Self(Cow::Borrowed(known)),
            None => Self(Cow::Owned(text.iter().map(|byte| char::from(printable(*byte))).collect())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// How a record was made.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordFlags {
    /// A field that the hook needs could not be read.
    pub incomplete: bool,
    /// The headers were not in the linear part of the skb.
    pub from_fragment: bool,
    /// The message came through a `va_format`, as in E3.
    pub va_format: bool,
    /// The log function takes the hook state before the format, as from E2 on.
    pub format_after_state: bool,
}

/// A short text of the kernel, printable: every byte that is not printable ASCII is replaced by `?`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Text<N> {
    /// The text before the first NUL.
    pub fn new(bytes: &[u8; N]) -> Self {
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(N).min(usize::from(u8::MAX));
        let mut copy = [0; N];
        for (to, from) in copy[..len].iter_mut().zip(&bytes[..len]) {
            *to = printable(*from);
        }
        Self { bytes: copy, len: len as u8 }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

const fn printable(byte: u8) -> u8 {
    if matches!(byte, 0x20..0x7f) { byte } else { b'?' }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
