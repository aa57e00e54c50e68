//! Names that others chose, as words of a shell command that is printed to be pasted.

use std::fmt::Write as _;

/// The name as one word, whatever is in it: quoted where it has to be, and without a character that a terminal would obey.
pub fn word(name: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-@:+/,%=".contains(character);
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    if !name.chars().any(char::is_control) {
        return format!("'{}'", name.replace('\'', "'\\''"));
    }
    // bash, zsh, ksh and busybox know this form.
    let mut quoted = "$'".to_owned();
    for character in name.chars() {
        let mut buffer = [0; 4];
        match character {
            '\'' | '\\' => quoted.extend(['\\', character]),
            other if other.is_control() => {
                for byte in other.encode_utf8(&mut buffer).bytes() {
                    // A String takes any write.
                    let _infallible = write!(quoted, "\\x{byte:02x}");
                }
            }
            other => quoted.push(other),
        }
    }
    quoted + "'"
}

/// Whether nft reads it as the name of a table or chain. It parses its arguments, joined to one text, in its own language, so
/// that quotes of the shell do not help.
pub fn nft_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|it| it.is_ascii_alphanumeric() || "/_.-".contains(it))
}

/// Whether iptables reads it as the name of a table or chain, and not as an option or a negation. One with control characters
/// takes a form of quotes that not every shell knows.
pub fn xtables_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['-', '!']) && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rstest::rstest;

    use super::word;

    #[rstest]
    #[case("gw-1", "gw-1")]
    #[case("", "''")]
    #[case("a; reboot", "'a; reboot'")]
    #[case("it's $HOME", "'it'\\''s $HOME'")]
    #[case("\u{1b}[2J'", "$'\\x1b[2J\\''")]
    #[case("büro", "'büro'")]
    fn a_shell_reads_it_back(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(word(name), expected);
        let output = Command::new("bash").args(["-c", &format!("printf %s {}", word(name))]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), name);
    }
}
