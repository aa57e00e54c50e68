//! A TCP connection through the gateway with both ends in hand, and what conntrack must think of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::{panic, thread};

use anyhow::{Context as _, Result, bail};

use crate::netns::Namespace;
use crate::topology::Lab;
use crate::wire::{PATIENCE, Segment, Tap, flag};

/// An established connection.
pub(super) struct Connection {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
    /// The client before translation, the client as the server sees it, and the server.
    pub(super) client_address: SocketAddr,
    pub(super) nat_address: SocketAddr,
    pub(super) server_address: SocketAddr,
    /// The server as the client knows it.
    pub(super) service_address: SocketAddr,
    /// The tap on the server's interface: it sees the gateway's address, not the client's.
    pub(super) tap: Tap,
}

/// What the tap has seen of a connection, restated as conntrack keeps it.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    /// The last segment with payload from the server.
    pub(super) from_server: Segment,
    /// Highest sequence number of the server's, plus one: the server's `td_end`.
    pub(super) server_end: u32,
    /// Highest sequence number of the client's, plus one: the client's `td_end`.
    pub(super) client_end: u32,
    /// Highest acknowledgement plus window of the client's: the server's `td_maxend`.
    pub(super) server_maxend: u32,
    /// The largest window that the client has announced: its `td_maxwin`.
    pub(super) client_maxwin: u32,
}

impl Connection {
    /// Opens a connection, and sends something both ways until it is acknowledged.
    pub(super) fn open(lab: &Lab, server: SocketAddr) -> Result<Self> {
        Self::open_through(lab, server, server)
    }

    /// The same for a client that knows the server by another address.
    pub(super) fn open_through(lab: &Lab, service: SocketAddr, server: SocketAddr) -> Result<Self> {
        Self::open_by(lab, server, || TcpStream::connect(service))
    }

    /// The same for a client that connects in a way of its own.
    pub(super) fn open_by(
        lab: &Lab,
        server: SocketAddr,
        connect: impl FnOnce() -> io::Result<TcpStream> + Send,
    ) -> Result<Self> {
        Self::open_at(&lab.client, connect, (&lab.server, "s0"), server)
    }

    /// The same for a server in any namespace, on an interface of it.
    pub(super) fn open_to(
        client: &Namespace,
        service: SocketAddr,
        home: (&Namespace, &str),
        server: SocketAddr,
    ) -> Result<Self> {
        Self::open_at(client, || TcpStream::connect(service), home, server)
    }

    fn open_at(
        client: &Namespace,
        connect: impl FnOnce() -> io::Result<TcpStream> + Send,
        (home, interface): (&Namespace, &str),
        server: SocketAddr,
    ) -> Result<Self> {
        let tap = Tap::open(home, interface)?;
        let listener = home.enter(|| TcpListener::bind(server))?.context("listening")?;
        let mut client = client.enter(connect)?.context("connecting")?;
        let (mut accepted, _) = listener.accept().context("accepting")?;
        for stream in [&client, &accepted] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        talk(&mut client, &mut accepted, 200)?;
        talk(&mut accepted, &mut client, 1_000)?;
        // A socket that was reset has no addresses any more.
        let connection = Self {
            client_address: client.local_addr()?,
            nat_address: accepted.peer_addr()?,
            server_address: accepted.local_addr()?,
            service_address: client.peer_addr()?,
            client,
            server: accepted,
            tap,
        };
        connection.traffic()?;
        Ok(connection)
    }

    /// Waits until everything that the tap has seen is acknowledged, and sums it up.
    pub(super) fn traffic(&self) -> Result<Traffic> {
        let server = self.server_address;
        self.tap.wait("everything to be acknowledged", |segments| summarise(segments, server))
    }

    /// The same, once the client has sent up to `client_end`: the tap lags behind the sockets.
    pub(super) fn traffic_up_to(&self, client_end: u32) -> Result<Traffic> {
        let server = self.server_address;
        self.tap.wait("what the client has sent", |segments| {
            summarise(segments, server).filter(|traffic| traffic.client_end == client_end)
        })
    }

    /// A segment of the server's so far ahead that it is refused on every kernel.
    pub(super) fn far_ahead(&self) -> Result<Segment> {
        const FAR: u32 = 20_000_000;
        let traffic = self.traffic()?;
        let seq = traffic.server_end.wrapping_add(FAR);
        traffic.from_server.forge(seq, traffic.client_end, flag::ACK | flag::PSH, &[b'!'; 400])
    }

    /// The incident that is the same on every kernel: such a segment arrives, the gateway resets the server, and the
    /// server, once the client speaks, the client. Gives the errors of the server and the client.
    pub(super) fn is_reset(&mut self) -> Result<[io::ErrorKind; 2]> {
        self.tap.send(&self.far_ahead()?)?;
        self.reset_to_server()?;
        Ok([Self::error_of(&mut self.server)?, self.client_learns()?])
    }

    /// Waits for a RST that the gateway sends to the server.
    pub(super) fn reset_to_server(&self) -> Result<Segment> {
        let server = self.server_address;
        self.tap.wait("the gateway's RST", |segments| {
            segments.iter().find(|segment| segment.dst == server && segment.has(flag::RST)).cloned()
        })
    }

    /// Waits until the client says again what it has acknowledged: its answer to a segment that it has no use for.
    pub(super) fn client_repeats(&self, traffic: &Traffic) -> Result<()> {
        let repeated = |segments: &[Segment]| {
            let of_client = segments.iter().filter(|seen| seen.dst == self.server_address && seen.flags == flag::ACK);
            (of_client.filter(|seen| seen.len == 0 && seen.ack == traffic.server_end).count() >= 2).then_some(())
        };
        self.tap.wait("the client's repeated ACK", repeated)
    }

    /// The error that an end sees when it reads.
    pub(super) fn error_of(stream: &mut TcpStream) -> Result<io::ErrorKind> {
        match stream.read(&mut [0; 1]) {
            Err(error) => Ok(error.kind()),
            Ok(read) => bail!("read {read} bytes where an error was expected"),
        }
    }

    /// Makes the client write until the dead server's RST comes back, and gives the client's error.
    pub(super) fn client_learns(&mut self) -> Result<io::ErrorKind> {
        self.client.write_all(b"is anybody there?").context("the client's write")?;
        Self::error_of(&mut self.client)
    }

    /// Waits for the gateway's RST, and for what both ends make of it: the server at once, the client with its next segment.
    pub(super) fn both_learn(&mut self) -> Result<(Segment, io::ErrorKind, io::ErrorKind)> {
        let reset = self.reset_to_server()?;
        let server = Self::error_of(&mut self.server)?;
        Ok((reset, server, self.client_learns()?))
    }

    /// Sends from the client to the server, who reads all of it.
    pub(super) fn client_sends(&mut self, bytes: usize) -> Result<()> {
        pump(&mut self.client, &mut self.server, bytes).context("client to server")
    }

    /// Sends from the server to the client, who reads all of it.
    pub(super) fn server_sends(&mut self, bytes: usize) -> Result<()> {
        pump(&mut self.server, &mut self.client, bytes).context("server to client")
    }

    /// Sends something both ways.
    pub(super) fn is_alive(&mut self) -> Result<()> {
        talk(&mut self.client, &mut self.server, 300).context("client to server")?;
        talk(&mut self.server, &mut self.client, 300).context("server to client")
    }
}

/// More than fits into the buffers on the way.
fn pump(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> Result<()> {
    thread::scope(|scope| {
        let reader = scope.spawn(|| to.read_exact(&mut vec![0; bytes]));
        from.write_all(&vec![b'y'; bytes]).context("writing")?;
        reader.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)).context("reading")
    })
}

/// Sends from one end to the other, who reads all of it.
pub(super) fn talk(from: &mut TcpStream, to: &mut TcpStream, bytes: usize) -> Result<()> {
    from.write_all(&vec![b'x'; bytes]).context("writing")?;
    to.read_exact(&mut vec![0; bytes]).context("reading")
}

fn summarise(segments: &[Segment], server: SocketAddr) -> Option<Traffic> {
    let later = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() > 0 { a } else { b };
    let of_server = || segments.iter().filter(|segment| segment.src == server);
    let of_client = || segments.iter().filter(|segment| segment.dst == server && !segment.has(flag::RST));
    let scale = of_client().find(|segment| segment.has(flag::SYN))?.window_scale();
    let window = |segment: &Segment| {
        let scale = if segment.has(flag::SYN) { 0 } else { scale };
        u32::from(segment.window) << scale
    };
    let server_end = of_server().map(Segment::end).reduce(later)?;
    let client_end = of_client().map(Segment::end).reduce(later)?;
    let acknowledging = || of_client().filter(|segment| segment.has(flag::ACK));
    let server_maxend = acknowledging().map(|segment| segment.ack.wrapping_add(window(segment))).reduce(later)?;
    let acked_by_client = acknowledging().map(|segment| segment.ack).reduce(later)?;
    let acked_by_server = of_server().map(|segment| segment.ack).reduce(later)?;
    (acked_by_client == server_end && acked_by_server == client_end).then_some(())?;
    Some(Traffic {
        from_server: of_server().rfind(|segment| segment.len > 0)?.clone(),
        server_end,
        client_end,
        server_maxend,
        client_maxwin: of_client().map(window).max()?,
    })
}
