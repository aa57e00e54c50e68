//! Network namespaces as a user names them: on this host by number, name or path, in a recording by number or name.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};

use tracer_host::netns;
use tracer_model::capture::{Item, Items as _};
use tracer_recording::Recordings;

use super::suggest;

/// Numbers and names of network namespaces.
pub(super) type Names = BTreeSet<(u32, String)>;

/// A namespace as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetnsArg {
    /// Its inode number.
    Inode(u32),
    /// A file of the namespace: `/run/netns/NAME`, `/proc/PID/ns/net`.
    Path(PathBuf),
    /// Its name, as `ip netns` knows it.
    Name(String),
}

impl FromStr for NetnsArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(inode) => Self::Inode(inode),
            Err(_) if text.contains('/') => Self::Path(PathBuf::from(text)),
            Err(_) => Self::Name(text.to_owned()),
        })
    }
}

/// Inode numbers on this host.
pub(super) fn on_this_host(wanted: &[NetnsArg]) -> anyhow::Result<Vec<u32>> {
    let inode = |wanted: &NetnsArg| match wanted {
        NetnsArg::Inode(inode) => Ok(*inode),
        NetnsArg::Path(path) => netns::inode_of_path(path).with_context(|| format!("--netns {}", path.display())),
        NetnsArg::Name(name) => {
            let known = netns::names();
            let found = known.iter().find(|(_, known)| known == name).map(|(inode, _)| *inode);
            found.with_context(|| unknown(name, "this host has", &known))
        }
    };
    wanted.iter().map(inode).collect()
}

/// Inode numbers in a recording. Several namespaces can have had the same name, one after another.
pub(super) fn in_recording(wanted: &[NetnsArg], recordings: &[PathBuf]) -> anyhow::Result<Vec<u32>> {
    let mut inodes = Vec::new();
    let mut known = None;
    for wanted in wanted {
        match wanted {
            NetnsArg::Inode(inode) => inodes.push(*inode),
            NetnsArg::Path(path) => bail!(
                "--netns {}: a path names a namespace of this host; use its number or name in the recording",
                path.display()
            ),
            NetnsArg::Name(name) if recordings.iter().any(|path| path == Path::new("-")) => bail!(
                "--netns {name}: resolving a name reads the recording twice, and standard input can be read only once; use \
                 the inode number, or a file"
            ),
            NetnsArg::Name(name) => {
                if known.is_none() {
                    known = Some(names(recordings)?);
                }
                let known = known.iter().flatten();
                let found: Vec<u32> =
                    known.clone().filter(|(_, known)| known == name).map(|(inode, _)| *inode).collect();
                if found.is_empty() {
                    bail!(unknown(name, "the recording has", &known.cloned().collect()));
                }
                inodes.extend(found);
            }
        }
    }
    Ok(inodes)
}

/// The names in recordings.
pub(super) fn names(recordings: &[PathBuf]) -> anyhow::Result<Names> {
    let mut recordings = Recordings::open(recordings)?;
    let mut names = Names::new();
    while let Some(item) = recordings.read().with_context(|| format!("reading {}", recordings.name()))? {
        if let Item::Netns(facts) = item
            && let Some(name) = facts.name
        {
            names.insert((facts.inode, name));
        }
    }
    Ok(names)
}

/// The error for an unknown name. It lists the known names.
fn unknown(name: &str, whose: &str, known: &Names) -> String {
    /// Names that are listed.
    const LISTED: usize = 10;
    let meant = suggest::did_you_mean(name, known.iter().map(|(_, name)| name.as_str()));
    let mut listed: Vec<String> = known.iter().take(LISTED).map(|(inode, name)| format!("{name} ({inode})")).collect();
    if known.len() > LISTED {
        listed.push(format!("{} more", known.len() - LISTED));
    }
    let listed = if listed.is_empty() { "none with a name".to_owned() } else { listed.join(", ") };
    format!("--netns {name}: no network namespace has this name{meant} ({whose} {listed})")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rstest::rstest;

    use super::{Names, NetnsArg, unknown};

    #[rstest]
    #[case("4026531840", NetnsArg::Inode(4_026_531_840))]
    #[case("gateway", NetnsArg::Name("gateway".to_owned()))]
    #[case("99999999999", NetnsArg::Name("99999999999".to_owned()))]
    #[case("/proc/1/ns/net", NetnsArg::Path(PathBuf::from("/proc/1/ns/net")))]
    #[case("../etc/passwd", NetnsArg::Path(PathBuf::from("../etc/passwd")))]
    fn numbers_names_and_paths(#[case] text: &str, #[case] expected: NetnsArg) {
        assert_eq!(text.parse(), Ok(expected));
    }

    #[test]
    fn known_names_are_listed() {
        let known: Names = (1..=12).map(|number| (number, format!("gw-{number}"))).collect();
        let text = unknown("gw-1O", "this host has", &known);
        assert!(text.contains("did you mean gw-1?"), "{text}");
        assert!(text.ends_with("gw-10 (10), 2 more)"), "{text}");
        let text = unknown("gw", "the recording has", &Names::new());
        assert_eq!(text, "--netns gw: no network namespace has this name (the recording has none with a name)");
    }
}
