//! The host context of a namespace: tools, what owns the firewall, interfaces, memory. Reads files and asks the kernel;
//! changes nothing, and starts no program but `iptables --version` and iptables' save tool.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};

use nix::ifaddrs::getifaddrs;

use tracer_model::event::NfHook;
use tracer_model::host_context::{Dropping, HostContext, Limits, Manager, NetnsPath, Persistence, Translation};
use tracer_model::ruleset::audit::{Audit, Does, Noted};
use tracer_model::ruleset::{Backend, Family, Key, Rule, Test};

use crate::links::uplinks;
use crate::netns::visit;
use crate::{nftables, now, ruleset};

/// Tools that the commands of mitigations use.
const TOOLS: [&str; 12] = [
    "nft",
    "iptables",
    "ip6tables",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
    "firewall-cmd",
    "ufw",
    "netfilter-persistent",
    "sysctl",
    "nsenter",
];
/// Where they are searched besides `PATH`, which has no `sbin` for everybody.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Files that nftables.service loads, of Debian and of Red Hat.
const NFTABLES_FILES: [&str; 2] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf"];
/// Interfaces that uplinks are looked for among, and addresses that are kept.
const MOST: usize = 256;

/// Reads the host context of the namespace that the calling thread is in.
pub(super) fn read_here(netns: u32, way: NetnsPath, initial: NetnsPath, deadline: Instant) -> HostContext {
    let mut found = HostContext { initial, ..HostContext::unknown(netns, now(), way) };
    found.tools = TOOLS.iter().filter(|tool| find(tool).is_some()).map(|tool| (*tool).to_owned()).collect();
    found.iptables = find("iptables").and_then(|path| variant(&path));
    found.memory = memory();
    found.limits = limits(&found.initial);
    found.uplinks = uplinks().into_iter().take(MOST).collect();
    found.addresses = addresses(&mut found.problems);
    // Both belong to the host's own namespace: what they own, and what is loaded at boot.
    if found.netns_path == NetnsPath::Here && found.initial == NetnsPath::Here {
        found.manager = manager(Path::new("/"));
        found.persistence = persistence(Path::new("/"), &found.tools);
    }
    found.xtables = if nftables::is_there() { nftables::tables(deadline).unwrap_or_default() } else { Vec::new() };
    let mut legacy = false;
    for (family, names) in [(Family::Ip, "ip_tables_names"), (Family::Ip6, "ip6_tables_names")] {
        // /proc/net is the namespace of the process, not of the thread.
        let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(names)).unwrap_or_default();
        legacy |= !text.trim().is_empty();
        found.xtables.extend(text.lines().map(|table| (family, table.to_owned())));
    }
    let chains = if nftables::is_there() { nftables::base_chains(deadline) } else { Ok(Vec::new()) };
    let chains = chains.unwrap_or_else(|error| {
        found.problems.push(format!("the chains of nftables could not be read: {error}"));
        Vec::new()
    });
    let holds = |backend: Backend| match backend {
        Backend::IptablesLegacy => legacy,
        of_nftables => chains.iter().any(|chain| (of_nftables == Backend::IptablesNft) == chain.of_iptables()),
    };
    found.backends = Backend::ALL.into_iter().filter(|backend| holds(*backend)).collect();
    let made = chains.iter().filter(|chain| chain.of_iptables()).map(|chain| &chain.shape);
    found.xchains = made.map(|chain| (chain.family, chain.table.clone(), chain.name.clone())).collect();
    let filters = chains.iter().filter(|chain| chain.filters && !chain.of_iptables());
    found.chains = filters.take(MOST).map(|chain| chain.shape.clone()).collect();
    let audit = ruleset::whole(deadline).0.audit(netns, now());
    found.translations = translations(&audit);
    found.drops = audit
        .noted
        .iter()
        .filter(|noted| noted.does == Does::DropsInvalid)
        .filter_map(|noted| dropping(&noted.rule))
        .collect();
    found.problems.extend(audit.problems);
    found
}

/// Where a program is.
fn find(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from)).collect();
    let runs =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0);
    directories.into_iter().filter(|directory| directory.is_absolute()).map(|it| it.join(tool)).find(runs)
}

/// Which variant of iptables a program is: it prints that from 1.8 on; before, there was only one.
fn variant(program: &Path) -> Option<Backend> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output
        .status
        .success()
        .then(|| if text.contains("nf_tables") { Backend::IptablesNft } else { Backend::IptablesLegacy })
}

fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// A child namespace may write its own limit only where it has one.
fn limits(initial: &NetnsPath) -> Limits {
    let read = |name: &str| -> Option<i64> { fs::read_to_string(limit(name)).ok()?.trim().parse().ok() };
    let both = || (read("max"), read("buckets"));
    let (max, buckets) = both();
    let NetnsPath::Process(pid) = initial else { return Limits { max, buckets, own: None } };
    let writable = fs::metadata(limit("max")).is_ok_and(|data| data.permissions().mode() & 0o200 != 0);
    let path = format!("/proc/{pid}/ns/net");
    // What cannot be entered is taken to be as here: up to now namespaces see the value that holds for all.
    let of_initial = visit(Path::new(&path), both).unwrap_or((max, buckets));
    Limits { max: of_initial.0, buckets: of_initial.1, own: max.filter(|_| writable) }
}

fn limit(name: &str) -> PathBuf {
    Path::new("/proc/sys/net/netfilter").join(format!("nf_conntrack_{name}"))
}

fn addresses(problems: &mut Vec<String>) -> Vec<(String, IpAddr)> {
    let all = match getifaddrs() {
        Ok(all) => all,
        Err(error) => {
            problems.push(format!("addresses of interfaces: {error}"));
            return Vec::new();
        }
    };
    all.filter_map(|entry| {
        let address = entry.address?;
        let v4 = || address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        let v6 = || address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()));
        let address = v4().or_else(v6).filter(|ip| !ip.is_loopback())?;
        let link_local = matches!(address, IpAddr::V6(it) if it.is_unicast_link_local());
        (!link_local).then_some((entry.interface_name, address))
    })
    .take(MOST)
    .collect()
}

/// What owns the firewall, by what it leaves below `root` while it runs.
fn manager(root: &Path) -> Option<Manager> {
    let runs = |pidfile: &str| {
        let pid = fs::read_to_string(root.join(pidfile)).ok();
        pid.is_some_and(|pid| !pid.trim().is_empty() && root.join("proc").join(pid.trim()).exists())
    };
    if runs("run/firewalld.pid") {
        return Some(Manager::Firewalld);
    }
    let ufw = fs::read_to_string(root.join("etc/ufw/ufw.conf")).unwrap_or_default();
    let enabled = ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes"));
    enabled.then_some(Manager::Ufw)
}

/// What brings rules back after a reboot, by what is below `root`.
fn persistence(root: &Path, tools: &[String]) -> Vec<Persistence> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let enabled = |unit: &str| {
        let systemd = below("/etc/systemd/system");
        let wants = fs::read_dir(systemd).into_iter().flatten().flatten();
        wants.filter(|entry| entry.file_name().to_string_lossy().ends_with(".wants")).any(|entry| {
            // The link leads to a file that may be in another place below this root.
            fs::symlink_metadata(entry.path().join(unit)).is_ok()
        })
    };
    let mut found = Vec::new();
    if enabled("nftables.service")
        && let Some(file) = NFTABLES_FILES.iter().find(|file| below(file).exists())
    {
        found.push(Persistence::Nftables { file: (*file).to_owned() });
    }
    if tools.iter().any(|tool| tool == "netfilter-persistent") {
        found.push(Persistence::NetfilterPersistent);
    }
    if enabled("iptables.service") {
        found.push(Persistence::IptablesServices);
    }
    found
}

fn translations(audit: &Audit) -> Vec<Translation> {
    let of = |noted: &Noted| {
        let (Does::SourceNat(translation) | Does::Masquerades(translation)) = &noted.does else { return None };
        Some(Translation {
            backend: noted.rule.backend,
            family: noted.rule.family,
            output: translation.output.clone(),
            to: translation.to.iter().map(|range| (*range.start(), *range.end())).collect(),
        })
    };
    audit.noted.iter().filter_map(of).collect()
}

/// A rule that drops refused packets, where packets for this host meet it before the stack does.
fn dropping(rule: &Rule) -> Option<Dropping> {
    if !rule.hooks.has(NfHook::LocalIn) && !rule.hooks.has(NfHook::PreRouting) {
        return None;
    }
    let mut dropping = Dropping {
        // Names in it are whatever somebody chose.
        rule: format!("{rule}: {}", rule.text).chars().map(|it| if it.is_control() { '?' } else { it }).collect(),
        family: rule.family,
        input: None,
        destination: None,
        narrow: !rule.complete,
    };
    for test in &rule.tests {
        match exact(test) {
            _ if matches!(test.key, Key::State | Key::Transport | Key::Family | Key::EtherType) => {}
            Some(bytes) if test.key == Key::InputName => dropping.input = Some(name(&bytes)),
            Some(bytes) if matches!(test.key, Key::NetworkHeader { offset: 16 }) && bytes.len() == 4 => {
                dropping.destination = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
            }
            Some(bytes) if matches!(test.key, Key::NetworkHeader { offset: 24 }) && bytes.len() == 16 => {
                dropping.destination = <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
            }
            _ => dropping.narrow = true,
        }
    }
    Some(dropping)
}

/// The one value that a test admits.
fn exact(test: &Test) -> Option<Vec<u8>> {
    match &test.bounds[..] {
        [(from, to)] if from == to && test.inside && test.mask.iter().all(|byte| *byte == 0xff) => Some(from.clone()),
        _ => None,
    }
}

fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tracer_model::host_context::Persistence;
    use tracer_model::ruleset::Backend;

    use super::{Manager, manager, persistence, variant};

    fn write(root: &std::path::Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn who_owns_the_firewall() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(manager(root.path()), None);
        write(root.path(), "etc/ufw/ufw.conf", "# comment\nENABLED=no\n");
        assert_eq!(manager(root.path()), None);
        write(root.path(), "etc/ufw/ufw.conf", "ENABLED=yes\n");
        assert_eq!(manager(root.path()), Some(Manager::Ufw));
        write(root.path(), "run/firewalld.pid", "4711\n");
        assert_eq!(manager(root.path()), Some(Manager::Ufw), "a stale file");
        write(root.path(), "proc/4711/stat", "");
        assert_eq!(manager(root.path()), Some(Manager::Firewalld));
    }

    #[test]
    fn what_brings_rules_back() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "etc/nftables.conf", "flush ruleset\n");
        assert_eq!(persistence(root.path(), &[]), [], "the file alone is loaded by nobody");
        write(root.path(), "etc/systemd/system/sysinit.target.wants/nftables.service", "");
        assert_eq!(persistence(root.path(), &[]), [Persistence::Nftables { file: "/etc/nftables.conf".to_owned() }]);
        let both = persistence(root.path(), &["netfilter-persistent".to_owned()]);
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn which_iptables_it_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        for (says, is) in [
            ("iptables v1.8.9 (nf_tables)", Backend::IptablesNft),
            ("iptables v1.8.9 (legacy)", Backend::IptablesLegacy),
            ("iptables v1.6.1", Backend::IptablesLegacy),
        ] {
            let path = root.path().join(says.replace(' ', "-"));
            fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(variant(&path), Some(is));
        }
        assert_eq!(variant(&root.path().join("missing")), None);
    }
}
