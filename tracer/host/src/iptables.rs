//! The rules of iptables. They are stored in two ways: legacy tables, which iptables' own tool prints ([`text`]), and structures
//! inside of nftables' rules ([`compat`]). What a match asks and what a target does is decided in [`conditions`] and
//! [`actions`], for both.

mod actions;
pub(crate) mod compat;
mod conditions;
pub(crate) mod legacy;
#[cfg(test)]
mod shown;
pub mod text;

pub(crate) use legacy::whole;
