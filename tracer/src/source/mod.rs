//! Where a capture comes from: the running kernel, or a file that an earlier one was recorded to.
//!
//! Both deliver the same [`Item`](crate::capture::Item)s; nothing behind them knows which it was.

mod foreign;
pub mod format;
mod gone_maps;
pub mod kernel_log;
pub mod live;
pub mod recording;
mod ring;
mod tap;
