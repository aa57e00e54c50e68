//! What there is around another host's conntrack: who owns the firewall stays, whom it serves does not.

use std::net::IpAddr;

use tracer_model::host_context::{Dropping, FilterChain, HostContext, NetnsPath, Persistence, Translation};

use super::{Redactor, text};

/// Names of tables and chains that say nothing of whose they are.
const CHAINS: &str = "FORWARD INPUT OUTPUT POSTROUTING PREROUTING filter forward input mangle nat output postrouting prerouting \
                      raw security";

impl Redactor {
    pub(super) fn host_context(&mut self, context: HostContext) -> HostContext {
        let HostContext { netns, at, netns_path, initial, tools, iptables, manager, persistence, backends, .. } =
            context;
        let HostContext { translations, drops, chains, xtables, xchains, uplinks, addresses, .. } = context;
        let HostContext { memory, limits, problems, .. } = context;
        HostContext {
            netns,
            at,
            netns_path: self.netns_path(netns_path),
            initial: self.netns_path(initial),
            // Programs that whyrst asks for by name.
            tools,
            iptables,
            manager,
            persistence: persistence.into_iter().map(|keeper| self.keeper(keeper)).collect(),
            backends,
            translations: translations.into_iter().map(|translation| self.translation(translation)).collect(),
            drops: drops.into_iter().map(|drop| self.dropping(drop)).collect(),
            chains: chains
                .into_iter()
                .map(|FilterChain { family, table, name, hooks }| FilterChain {
                    family,
                    table: self.chain(&table),
                    name: self.chain(&name),
                    hooks,
                })
                .collect(),
            xtables: xtables.into_iter().map(|(family, table)| (family, self.chain(&table))).collect(),
            xchains: xchains
                .into_iter()
                .map(|(family, table, name)| (family, self.chain(&table), self.chain(&name)))
                .collect(),
            uplinks: uplinks.iter().map(|name| self.interface(name)).collect(),
            addresses: addresses
                .into_iter()
                .map(|(name, address)| (self.interface(&name), self.addresses.pseudonym(address)))
                .collect(),
            memory,
            limits,
            problems: text::problems(&problems),
        }
    }

    fn netns_path(&self, netns_path: NetnsPath) -> NetnsPath {
        match netns_path {
            NetnsPath::Named(name) => NetnsPath::Named(self.netns(&name)),
            NetnsPath::Here | NetnsPath::Process(_) => netns_path,
        }
    }

    /// Where a distribution puts the file is known; another place is somebody's own.
    fn keeper(&self, keeper: Persistence) -> Persistence {
        const USUAL: [&str; 2] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf"];
        match keeper {
            Persistence::Nftables { file } if !USUAL.contains(&file.as_str()) => {
                Persistence::Nftables { file: self.names.whole("file", &file) }
            }
            Persistence::Nftables { .. } | Persistence::NetfilterPersistent | Persistence::IptablesServices => keeper,
        }
    }

    fn translation(&mut self, translation: Translation) -> Translation {
        let Translation { backend, family, output, to } = translation;
        let mut both = |(first, last): (IpAddr, IpAddr)| {
            let (one, other) = (self.addresses.pseudonym(first), self.addresses.pseudonym(last));
            // The order of pseudonyms is not that of addresses.
            (one.min(other), one.max(other))
        };
        let to = to.into_iter().map(&mut both).collect();
        Translation { backend, family, output: output.map(|name| self.interface(&name)), to }
    }

    fn dropping(&mut self, drop: Dropping) -> Dropping {
        let Dropping { rule: _, family, input, destination, narrow } = drop;
        let input = input.map(|name| self.interface(&name));
        let destination = destination.map(|address| self.addresses.pseudonym(address));
        let of_input = input.as_ref().map(|name| format!("iifname \"{name}\" ")).unwrap_or_default();
        let of_destination = destination.map(|address| format!("daddr {address} ")).unwrap_or_default();
        let more = if narrow { "… " } else { "" };
        let rule = format!("{family} {of_input}{of_destination}{more}ct state invalid drop");
        Dropping { rule, family, input, destination, narrow }
    }

    /// The name of a table or chain, which stays if the kernel or every manual has it.
    pub(super) fn chain(&self, name: &str) -> String {
        if CHAINS.split(' ').any(|usual| usual == name) { name.to_owned() } else { self.letters(name) }
    }

    fn interface(&self, name: &str) -> String {
        self.letters(name)
    }

    fn letters(&self, word: &str) -> String {
        // As an event shows what is not printable.
        let shown = |byte: u8| if byte.is_ascii() { char::from(byte) } else { '?' };
        self.names.letters(word.as_bytes()).into_iter().map(shown).collect()
    }
}
