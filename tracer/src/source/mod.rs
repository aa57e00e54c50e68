//! Where a capture comes from: the running kernel, or a file that an earlier one was recorded to.
//!
//! Both deliver the same [`Item`]s; nothing behind them knows which it was.

pub mod compress;
mod counters;
mod foreign;
pub mod format;
mod gone_maps;
mod held_back;
pub mod kernel_log;
pub mod live;
mod mapped;
mod missed;
mod modules;
pub mod recording;
mod rights;
mod ring;
pub mod rotate;
mod tap;

use std::io;

use crate::capture::{Host, Item};

/// Items of a capture that has been recorded, one by one.
pub trait Items {
    /// The host that it was taken on.
    fn host(&self) -> &Host;

    /// The next item; `None` at the end.
    fn read(&mut self) -> io::Result<Option<Item>>;
}
