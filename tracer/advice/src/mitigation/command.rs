//! Commands as they are printed and run: words, quoted for a shell.
//!
//! Unsafe names are refused: names with characters that do not print, and names that a tool would misread.

use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::Command;

/// Whether a name can be printed and typed again: it has no character that a terminal obeys or hides.
pub(crate) fn prints(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|it| it.is_ascii_graphic() || it == ' ' || it.is_alphanumeric())
}

/// Whether a command can enter a namespace: its name can be printed, and `ip netns exec` does not read it as an option.
pub(super) fn enters(way: &NetnsPath) -> bool {
    match way {
        NetnsPath::Named(name) => prints(name) && !name.starts_with('-'),
        NetnsPath::Here | NetnsPath::Process(_) => true,
    }
}

/// A command line for a shell, run in a namespace. None if it cannot be written safely.
pub(super) fn line<S: AsRef<str>>(way: &NetnsPath, words: &[S]) -> Option<String> {
    // Control characters would need `$'…'`, which POSIX shells do not know.
    let written = enters(way) && !words.iter().any(|word| word.as_ref().chars().any(char::is_control));
    written.then(|| Command::of(words).line(way))
}

/// An interface's name, quoted for nft. nft has no escapes in quotes, and reads a star as a wildcard.
pub(super) fn nft_interface(name: &str) -> Option<String> {
    (prints(name) && name.is_ascii() && !name.contains(['"', '\\', '*'])).then(|| format!("\"{name}\""))
}

/// An interface's name for iptables, which reads a trailing plus as a wildcard, and a leading dash as an option.
pub(super) fn xtables_interface(name: &str) -> Option<&str> {
    let plain = prints(name) && name.is_ascii() && !name.ends_with('+') && !name.starts_with(['-', '!']);
    plain.then_some(name)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use tracer_model::host_context::NetnsPath;
    use tracer_model::shell::nft_name;

    use super::{line, nft_interface, xtables_interface};

    /// A shell splits the line into the same words.
    #[rstest]
    #[case::plain("gateway")]
    #[case::command("a;reboot")]
    #[case::substitution("$(reboot)")]
    #[case::backquotes("`reboot`")]
    #[case::quotes("it's \"quoted\"")]
    #[case::dash("all-in")]
    #[case::glob("*?[a]")]
    #[case::variable("$HOME ~ !! #x")]
    #[case::letters("größe")]
    fn a_shell_reads_the_same_words(#[case] name: &str) {
        let line = line(&NetnsPath::Named(name.to_owned()), &["sysctl", "-n", name]).unwrap();
        let printed =
            std::process::Command::new("sh").args(["-c", &format!("printf '%s\\n' {line}")]).output().unwrap();
        let words: Vec<String> = String::from_utf8(printed.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(words, ["ip", "netns", "exec", name, "sysctl", "-n", name], "{line}");
        assert_eq!(shlex::split(&line).unwrap(), words);
    }

    #[rstest]
    #[case::line_break("a\nreboot")]
    #[case::escape("\u{1b}[2Jgateway")]
    #[case::right_to_left("\u{202e}yawetag")]
    #[case::not_utf8("gate\u{fffd}way")]
    #[case::empty("")]
    fn unprintable_names_are_refused(#[case] name: &str) {
        assert_eq!(line(&NetnsPath::Named(name.to_owned()), &["true"]), None);
        assert_eq!(nft_interface(name), None);
        assert_eq!(xtables_interface(name), None);
    }

    #[test]
    fn a_namespace_that_looks_like_an_option_is_refused() {
        assert_eq!(line(&NetnsPath::Named("-all".to_owned()), &["true"]), None);
        assert_eq!(line(&NetnsPath::Here, &["true", "-all"]).as_deref(), Some("true -all"));
    }

    #[test]
    fn misreadable_names_are_refused() {
        assert_eq!(nft_interface("a;reboot").as_deref(), Some("\"a;reboot\""));
        assert_eq!(nft_interface("a\"b"), None);
        assert_eq!(nft_interface("wan*"), None);
        assert_eq!(xtables_interface("a;reboot"), Some("a;reboot"));
        assert_eq!(xtables_interface("wan+"), None);
        assert_eq!(xtables_interface("-wan"), None);
        assert!(nft_name("my-table") && !nft_name("my table") && !nft_name("{drop}") && !nft_name(""));
    }
}
