//! What the running kernel is and can do: types, symbols, era, namespaces, and whether it can be traced at all.

pub mod btf;
pub mod ctnetlink;
pub mod era;
pub mod health;
mod iptables;
pub mod layout;
pub mod netns;
mod nfnetlink;
mod nftables;
pub mod preflight;
mod surroundings;
pub mod symbols;
mod table;
