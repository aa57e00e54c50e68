//! A small HTTP server that sends one file at a steady pace and reports the result of each transfer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;
use crate::wire::PATIENCE;

/// How a transfer ended on the server's side.
#[derive(Debug)]
pub struct Transfer {
    /// The client as the server sees it.
    pub client: SocketAddr,
    /// Bytes of the body that the socket took.
    pub sent: u64,
    /// The error that ended it, if one did.
    pub error: Option<io::Error>,
}

/// What the server sends.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// Its size in bytes.
    pub size: u64,
    /// Bytes given to the socket at once.
    pub chunk: usize,
    /// Pause between chunks.
    pub pause: Duration,
}

/// A running server; it ends with the process.
pub struct Server {
    transfers: mpsc::Receiver<Transfer>,
}

impl Server {
    /// Listens inside a namespace.
    pub fn start(namespace: &Namespace, address: SocketAddr, file: File) -> Result<Self> {
        let listener =
            namespace.enter(|| TcpListener::bind(address))?.with_context(|| format!("listening on {address}"))?;
        let (done, transfers) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let done = done.clone();
                // Nobody waits for a transfer any more when the scenario is over.
                thread::spawn(move || done.send(serve(stream, file)));
            }
        });
        Ok(Self { transfers })
    }

    /// Waits for the next transfer to end.
    pub fn transfer(&self) -> Result<Transfer> {
        self.transfers.recv_timeout(PATIENCE).context("waiting for the server to finish")
    }
}

fn serve(mut stream: TcpStream, file: File) -> Transfer {
    let client = stream.peer_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let mut sent = 0;
    let error = send(&mut stream, file, &mut sent).err();
    Transfer { client, sent, error }
}

fn send(stream: &mut TcpStream, file: File, sent: &mut u64) -> io::Result<()> {
    let mut request = [0; 1024];
    let mut read = 0;
    while !request[..read].windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut request[read..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.size)?;
    let chunk = vec![b'.'; file.chunk];
    while *sent < file.size {
        let left = usize::try_from(file.size - *sent).unwrap_or(usize::MAX);
        let part = &chunk[..file.chunk.min(left)];
        stream.write_all(part)?;
        *sent += part.len() as u64;
        // The pace of the download, not a wait for anything.
        thread::sleep(file.pause);
    }
    Ok(())
}
