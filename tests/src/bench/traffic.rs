//! Traffic without incidents: a download, and many short connections.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::load;
use crate::topology::{Lab, server};
use crate::wire::PATIENCE;

/// The port of the downloads.
const BULK: u16 = 80;
/// The port of the short connections.
const SHORT: u16 = 443;
/// Bytes of a request, and of the answer to it.
const REQUEST: usize = 100;
const ANSWER: usize = 1_000;

/// What some traffic came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// How long it took.
    pub(super) took: Duration,
    /// For how long of that a processor was busy.
    pub(super) busy: Duration,
    /// Packets that the gateway received to forward.
    pub(super) packets: u64,
}

/// The network with its two services.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) lab: Lab,
    bulk: TcpListener,
    short: TcpListener,
}

impl Traffic {
    pub(super) fn new(lab: Lab) -> Result<Self> {
        let listen = |port| lab.server.enter(|| TcpListener::bind(server(port)))?.context("listening");
        let (bulk, short) = (listen(BULK)?, listen(SHORT)?);
        Ok(Self { lab, bulk, short })
    }

    /// The client downloads so many bytes.
    pub(super) fn download(&self, bytes: u64) -> Result<Done> {
        let mut client = self.lab.client.enter(|| TcpStream::connect(server(BULK)))?.context("connecting")?;
        client.set_read_timeout(Some(PATIENCE))?;
        let (mut served, _) = self.bulk.accept().context("accepting")?;
        self.timed(move || {
            thread::scope(|scope| {
                let serving = scope.spawn(move || -> Result<()> {
                    let chunk = vec![b'.'; 64 << 10];
                    let mut left = bytes;
                    while left > 0 {
                        let part = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        served.write_all(&chunk[..part]).context("the server's write")?;
                        left -= part as u64;
                    }
                    Ok(())
                });
                let mut buffer = vec![0; 64 << 10];
                let mut received = 0;
                loop {
                    match client.read(&mut buffer).context("the client's read")? {
                        0 => break,
                        more => received += more as u64,
                    }
                }
                ensure!(received == bytes, "{received} of {bytes} bytes came");
                serving.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
            })
        })
    }

    /// So many connections one after the other: a request, an answer, and both ends close.
    pub(super) fn connections(&self, count: u32) -> Result<Done> {
        self.timed(|| {
            thread::scope(|scope| {
                let serving = scope.spawn(|| -> Result<()> {
                    for _ in 0..count {
                        let (mut stream, _) = self.short.accept()?;
                        stream.read_exact(&mut [0; REQUEST]).context("the server's read")?;
                        stream.write_all(&[b'.'; ANSWER]).context("the server's write")?;
                    }
                    Ok(())
                });
                self.lab.client.enter(|| (0..count).try_for_each(|_| once()))??;
                serving.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
            })
        })
    }

    /// Forgets all connections, so that each measurement begins with an empty table.
    pub(super) fn forget(&self) -> Result<()> {
        self.lab.gateway.run(&["conntrack", "-F"]).map(drop)
    }

    fn timed(&self, traffic: impl FnOnce() -> Result<()>) -> Result<Done> {
        let packets = || -> Result<u64> {
            let gateway = &self.lab.gateway;
            Ok(gateway.received_packets("lan0")? + gateway.received_packets("wan0")?)
        };
        let (packets_before, busy_before, started) = (packets()?, load::busy()?, Instant::now());
        traffic()?;
        let took = started.elapsed();
        Ok(Done { took, busy: load::busy()?.saturating_sub(busy_before), packets: packets()? - packets_before })
    }
}

fn once() -> Result<()> {
    let mut stream = TcpStream::connect(server(SHORT)).context("connecting")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[b'?'; REQUEST])?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == ANSWER, "{} bytes came", answer.len());
    Ok(())
}
