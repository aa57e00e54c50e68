//! The signals that end a capture, or start the next file of its recording.

use std::fs;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP: starts the next file of a rotated recording. It ends any other capture, as Ctrl-C does, for example when a
/// terminal is closed. If SIGHUP was ignored at the start (`nohup`), the capture continues.
pub(super) struct HangUp(Option<Signal>);

impl HangUp {
    pub(super) fn new(rotates: bool) -> anyhow::Result<Self> {
        let listen = || signal(SignalKind::hangup()).context("listening for signals");
        Ok(Self((rotates || !ignores_hangup()).then(listen).transpose()?))
    }

    pub(super) async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Whether SIGHUP was ignored when the program started (`SigIgn` of proc(5): a bit for each signal, from 1 on).
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Ctrl-C and SIGTERM.
pub(super) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub(super) async fn signalled(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
