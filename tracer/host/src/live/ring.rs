//! A thread that only reads the ring buffer, so that slow processing does not make the kernel lose records.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::CapabilitySet;
use tokio::sync::mpsc;

use crate::privileges;

/// Most records in a batch.
const BATCH: usize = 1_024;
/// Most batches in the queue. Beyond that, records stay in the ring buffer; when it is full the programs count the events.
const WAITING: usize = 64;

/// The reading end of the ring buffer.
pub(super) struct Ring {
    batches: mpsc::Receiver<Vec<Bytes>>,
    /// Closing it wakes the thread and ends it.
    alarm: Option<OwnedFd>,
    thread: Option<JoinHandle<RingBuf<MapData>>>,
    taken: VecDeque<Bytes>,
}

impl Ring {
    /// Starts the thread.
    pub(super) fn start(ring: RingBuf<MapData>) -> io::Result<Self> {
        let (alarmed, alarm) = rustix::pipe::pipe()?;
        let (full, batches) = mpsc::channel(WAITING);
        let thread = thread::Builder::new().name("ring".to_owned()).spawn(move || run(ring, &alarmed, &full))?;
        Ok(Self { batches, alarm: Some(alarm), thread: Some(thread), taken: VecDeque::new() })
    }

    /// The next record of the last batch.
    pub(super) fn ready(&mut self) -> Option<Bytes> {
        self.taken.pop_front()
    }

    /// The next record; `None` once the thread has ended. It is cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        while self.taken.is_empty() {
            self.taken.extend(self.batches.recv().await?);
        }
        self.taken.pop_front()
    }

    /// Ends the thread and returns all remaining records, in order.
    pub(super) async fn finish(&mut self) -> Vec<Bytes> {
        drop(self.alarm.take());
        let mut remaining: Vec<Bytes> = self.taken.drain(..).collect();
        // Receiving batches makes room for the thread's last one, after which it sees the alarm.
        while let Some(batch) = self.batches.recv().await {
            remaining.extend(batch);
        }
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(mut ring)) => remaining.extend(batch(&mut ring, usize::MAX)),
            Some(Err(_)) => tracing::error!("the thread that reads the ring buffer has panicked"),
            None => {}
        }
        remaining
    }
}

fn run(mut ring: RingBuf<MapData>, alarmed: &OwnedFd, full: &mpsc::Sender<Vec<Bytes>>) -> RingBuf<MapData> {
    if let Err(error) = privileges::keep(CapabilitySet::empty(), CapabilitySet::empty()) {
        tracing::debug!("the thread that reads the ring buffer keeps its capabilities: {error}");
    }
    loop {
        let records = batch(&mut ring, BATCH);
        if !records.is_empty() {
            if full.blocking_send(records).is_err() {
                return ring;
            }
            continue;
        }
        let mut descriptors =
            [PollFd::new(&ring, PollFlags::IN), PollFd::from_borrowed_fd(alarmed.as_fd(), PollFlags::IN)];
        match poll(&mut descriptors, None) {
            Ok(_) if !descriptors[1].revents().is_empty() => return ring,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!("waiting for events: {error}");
                return ring;
            }
        }
    }
}

fn batch(ring: &mut RingBuf<MapData>, most: usize) -> Vec<Bytes> {
    let mut records = Vec::new();
    while records.len() < most
        && let Some(record) = ring.next()
    {
        records.push(Bytes::copy_from_slice(&record));
    }
    records
}
