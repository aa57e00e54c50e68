//! The likely kind of a file that is no recording, for the error message.

use tracer_model::kernel_log::parse;

/// What text seems to be, from its beginning, with a leading `: `; empty where it is not known.
pub(super) fn text(start: &[u8]) -> &'static str {
    /// Bytes that are looked at.
    const ENOUGH: usize = 1 << 14;
    if start.starts_with(b"\xfd7zXZ\0") || start.starts_with(b"BZh") {
        return ": it is compressed; decompress it first";
    }
    let start = String::from_utf8_lossy(&start[..start.len().min(ENOUGH)]);
    let begins = |with: &str| start.trim_start().get(..with.len()).is_some_and(|s| s.eq_ignore_ascii_case(with));
    if start.contains("\"whyrst.report.v1\"") {
        ": it is a report that whyrst made, in JSON; --from takes what `whyrst record` wrote"
    } else if start.contains("\"whyrst.trace.v1\"") {
        ": it is what `whyrst trace` printed, in JSON; --from takes what `whyrst record` wrote"
    } else if begins("{") {
        ": it looks like JSON; --from takes what `whyrst record` wrote"
    } else if begins("<!doctype html") || begins("<html") {
        ": it looks like HTML; --from takes what `whyrst record` wrote"
    } else if start.starts_with("whyrst ") && start.contains(" lost") {
        ": it is a report that whyrst made, as text; --from takes what `whyrst record` wrote"
    } else if start.lines().any(is_kernel_log) {
        ": it looks like a kernel log; `whyrst explain` reads those"
    } else {
        ""
    }
}

/// Whether a line is the kernel's: of the ring buffer with its time, or of a log that names who speaks.
fn is_kernel_log(line: &str) -> bool {
    let stamped = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let seconds = |text: &str| text.contains('.') && text.trim().chars().all(|c| c.is_ascii_digit() || c == '.');
    line.contains(" kernel: ") || stamped.is_some_and(|(time, _)| seconds(time)) || parse(line).is_some()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::text;

    #[rstest]
    #[case::report(b"{\n  \"schema\": \"whyrst.report.v1\",", "it is a report that whyrst made, in JSON")]
    #[case::trace(b"{\"schema\":\"whyrst.trace.v1\"}", "it is what `whyrst trace` printed")]
    #[case::json(b"{\"a\": 1}", "it looks like JSON")]
    #[case::html(b"<!DOCTYPE html><html>", "it looks like HTML")]
    #[case::text_report("whyrst 0.1.0 · gw · Linux 6.1 · 3 events, 0 lost\n".as_bytes(), "it is a report that whyrst made, as text")]
    #[case::dmesg(b"[12345.678901] nf_ct_proto_6: SEQ is under the lower bound", "`whyrst explain` reads those")]
    #[case::ring_buffer(b"[    0.000000] Linux version 6.1.0", "`whyrst explain` reads those")]
    #[case::syslog(b"Nov 21 08:00:06 gw-1 kernel: eth0: link up", "`whyrst explain` reads those")]
    #[case::xz(b"\xfd7zXZ\0\0\x04", "it is compressed")]
    #[case::notes(b"not a recording", "")]
    #[case::bytes(b"\0\xff\xfe", "")]
    #[case::brackets(b"[section]\nkey = 1.0", "")]
    fn seems_to_be(#[case] start: &[u8], #[case] expected: &str) {
        let found = text(start);
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
    }
}
