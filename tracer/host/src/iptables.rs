//! The rules of iptables. They are stored in two ways: legacy tables, which iptables' own tool prints ([`save`]), and blobs
//! inside of nftables' rules ([`compat`]). What a match asks and what a target does is decided in [`xtables`], for both.

pub(crate) mod compat;
mod legacy;
mod options;
pub mod save;
pub(crate) mod xtables;

pub(crate) use legacy::read;
