//! `whyrst doctor` as text: the findings first, then the facts of each namespace.
//!
//! Colours are always written; `anstream` removes them if they are not wanted.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

use textwrap::Options;

use tracer_advice::doctor::{Row, decider, walks};
use tracer_model::capture::HookState;
use tracer_model::finding::{Finding, Severity};
use tracer_model::health::counters::Counter;
use tracer_model::health::ports::{DEFAULT, protocol};
use tracer_model::health::sizing::Sizing;
use tracer_model::health::sysctls::{ALL, Kind};
use tracer_model::health::table::Table;
use tracer_model::health::{Facts, Namespace};
use tracer_model::ruleset::audit::{Audit, Does};

use super::plain::Plain;
use super::sentences::{counted, grouped};
use super::style::{BAD, FAINT, GOOD, STRONG, TextStyle, WARN};

/// Top users and destinations that are listed without `--verbose`.
const LISTED: usize = 5;
/// Rules that are listed without `--verbose`.
const RULES: usize = 12;
/// Classes of INVALID packets that are listed without `--verbose`.
const WALKS: usize = 6;
/// Columns of the names in lists.
const NAME: usize = 14;

/// Whether an advice is a command: it starts with the name of a program.
fn is_command(advice: &str) -> bool {
    const PROGRAMS: [&str; 13] = [
        "conntrack",
        "dmesg",
        "echo",
        "ip",
        "ip6tables",
        "ip6tables-legacy",
        "iptables",
        "iptables-legacy",
        "nft",
        "nsenter",
        "sysctl",
        "ulimit",
        "whyrst",
    ];
    advice.split(' ').next().is_some_and(|first| PROGRAMS.contains(&first))
}

/// Renders facts and findings.
pub fn render(facts: &Facts, findings: &[Finding], style: TextStyle, all: bool) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _infallible = Text { to: &mut text, facts, style, all }.whole(findings);
    text
}

struct Text<'a> {
    to: &'a mut String,
    facts: &'a Facts,
    style: TextStyle,
    all: bool,
}

impl Text<'_> {
    fn whole(&mut self, findings: &[Finding]) -> fmt::Result {
        self.header()?;
        self.summary(findings)?;
        let (urgent, rest): (Vec<&Finding>, Vec<&Finding>) =
            findings.iter().partition(|finding| finding.severity < Severity::Info);
        urgent.into_iter().try_for_each(|finding| self.finding(finding))?;
        for namespace in &self.facts.namespaces {
            // Most of many namespaces track nothing: a finding reports that in one line.
            if !namespace.is_idle() || self.facts.namespaces.len() == 1 || self.all {
                self.namespace(namespace)?;
            }
        }
        if self.all && !self.facts.is_of_file() {
            self.hooks()?;
        }
        rest.into_iter().try_for_each(|finding| self.finding(finding))
    }

    fn header(&mut self) -> fmt::Result {
        let host = &self.facts.host;
        let dot = self.style.dot();
        let version = env!("CARGO_PKG_VERSION");
        let memory = host.memory.map_or_else(String::new, |bytes| format!(" {dot} {} MiB", grouped(bytes >> 20)));
        let log_format =
            host.log_format.map_or_else(String::new, |log_format| format!(" {dot} log format {log_format}"));
        let (hostname, kernel) = (Plain(&host.hostname), Plain(&host.kernel));
        writeln!(
            self.to,
            "{FAINT}whyrst {version} doctor {dot} {hostname} {dot} Linux {kernel}{log_format}{memory}{FAINT:#}\n"
        )
    }

    fn summary(&mut self, findings: &[Finding]) -> fmt::Result {
        if self.facts.is_of_file() {
            return writeln!(self.to, "The rules alone: nothing else of their host is known.");
        }
        let tracing = &self.facts.tracing;
        let attachable = tracing.hooks.iter().filter(|(_, state)| *state == HookState::Attached).count() as u64;
        if tracing.possible() {
            let hooks = counted(attachable, "hook is", "hooks are");
            writeln!(self.to, "{GOOD}This host can be traced.{GOOD:#} {hooks} available.")?;
        } else {
            writeln!(self.to, "{WARN}This process cannot trace this host.{WARN:#}")?;
        }
        if self.facts.namespaces.is_empty() {
            return Ok(());
        }
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
        let (critical, warnings) = (count(Severity::Critical), count(Severity::Warning));
        match (critical, warnings) {
            (0, 0) => writeln!(self.to, "{GOOD}Conntrack is healthy, as far as whyrst could read it.{GOOD:#}"),
            (0, _) => writeln!(self.to, "{WARN}{}.{WARN:#}", counted(warnings, "warning", "warnings")),
            _ => writeln!(self.to, "{BAD}{critical} critical, {}.{BAD:#}", counted(warnings, "warning", "warnings")),
        }
    }

    fn finding(&mut self, finding: &Finding) -> fmt::Result {
        let style = match finding.severity {
            Severity::Critical => BAD,
            Severity::Warning => WARN,
            Severity::Info => FAINT,
        };
        let first = format!("{}: {} [{}]", finding.severity.name(), Plain(&finding.title), finding.id);
        let mut lines = self.wrap(&first, 2).into_iter();
        writeln!(self.to, "\n{style}{}{style:#}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "  {line}"))?;
        // Skip evidence that is in the title or printed below.
        let is_listed = |name: &str| {
            let always = name.starts_with("rule_");
            let shown = ["netns", "mitigation", "entries", "max", "percent", "counted", "per_s"].contains(&name);
            always || (!shown && finding.severity < Severity::Info)
        };
        for (name, value) in finding.evidence.iter().filter(|(name, _)| is_listed(name)) {
            self.indented(&format!("{name}: {}", Plain(value)), 2)?;
        }
        finding.advice.iter().try_for_each(|advice| self.advice(&Plain(advice).to_string()))
    }

    fn advice(&mut self, advice: &str) -> fmt::Result {
        // A command is not wrapped, so that it can be copied.
        if is_command(advice) {
            return writeln!(self.to, "    {STRONG}{advice}{STRONG:#}");
        }
        let mut lines = self.wrap(advice, 5).into_iter();
        writeln!(self.to, "  {} {}", self.style.pick("→", "->"), lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "    {line}"))
    }

    fn namespace(&mut self, namespace: &Namespace) -> fmt::Result {
        let name = match &namespace.place.name {
            Some(name) => format!("{} (netns {})", Plain(name), namespace.inode),
            None => format!("netns {}", namespace.inode),
        };
        writeln!(self.to, "\n{STRONG}{name}{STRONG:#}")?;
        if !namespace.loaded.is_empty() {
            for (index, note) in namespace.loaded.iter().enumerate() {
                self.row(if index == 0 { "loaded" } else { "" }, &Plain(note).to_string())?;
            }
            return self.ruleset(namespace);
        }
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), grouped);
        let used = namespace.used().map_or_else(String::new, |used| format!(" ({used} %)"));
        let trend = namespace.trend().map_or_else(String::new, |trend| format!(", {trend:+.1}/s"));
        let (entries, max) = (number(namespace.entries()), number(namespace.max()));
        let buckets = number(namespace.number("nf_conntrack_buckets"));
        self.row("entries", &format!("{entries} of {max}{used}{trend}; {buckets} buckets"))?;
        if let (Some(memory), Some(max)) = (self.facts.host.memory, namespace.max()) {
            let sizing = Sizing::of(memory, self.facts.host.entry_bytes);
            for (index, line) in sizing.shown(max, namespace.number("nf_conntrack_buckets")).iter().enumerate() {
                self.row(if index == 0 { "sizing" } else { "" }, line)?;
            }
        }
        self.counters(namespace)?;
        if let Some(table) = &namespace.table {
            self.table(table)?;
        }
        self.sysctls(namespace)?;
        self.ruleset(namespace)
    }

    fn ruleset(&mut self, namespace: &Namespace) -> fmt::Result {
        if let Some(audit) = &namespace.audit {
            self.rules(audit)?;
        }
        self.walks(namespace)
    }

    /// What becomes of INVALID packets in the rules.
    fn walks(&mut self, namespace: &Namespace) -> fmt::Result {
        let most = if self.all { usize::MAX } else { WALKS };
        // A ruleset that translates nothing was sent for something else.
        let all = self.all || !namespace.loaded.is_empty();
        let rows: Vec<Row> = walks(namespace).into_iter().filter(|row| all || row.expected).collect();
        for (index, row) in rows.iter().take(most).enumerate() {
            let mut fates: Vec<String> = Vec::new();
            for one in &row.consequences.all {
                let fate = format!("{} ({})", one.seen.name(), decider(&one.by));
                if !fates.contains(&fate) {
                    fates.push(fate);
                }
            }
            let certain = if row.consequences.typical().is_some() { "" } else { "in doubt: " };
            let others = fates.len().saturating_sub(1);
            fates.truncate(if self.all || row.consequences.typical().is_none() { 8 } else { 1 });
            let folded = others + 1 - fates.len().min(others + 1);
            let more = if folded > 0 { format!("; {folded} more for some") } else { String::new() };
            let text = format!("{}: {certain}{}{more}", row.packets(), fates.join(", "));
            self.row(if index == 0 { "INVALID" } else { "" }, &Plain(&text).to_string())?;
        }
        let folded = rows.len().saturating_sub(most) as u64;
        if folded > 0 {
            let more = counted(folded, "class", "classes");
            self.row("", &format!("{} and {more}; --verbose lists all", self.style.pick("…", "...")))?;
        }
        Ok(())
    }

    fn counters(&mut self, namespace: &Namespace) -> fmt::Result {
        let known = Counter::ALL.into_iter().filter_map(|counter| Some((counter, namespace.total(counter)?)));
        let parts: Vec<String> = known
            .filter(|(_, total)| self.all || *total > 0)
            .map(|(counter, total)| {
                let rate = namespace.rate(counter).filter(|rate| *rate > 0.0);
                let rate = rate.map_or_else(String::new, |rate| format!(" (+{rate:.1}/s)"));
                format!("{} {}{rate}", counter.name(), grouped(total))
            })
            .collect();
        let none = if namespace.after.counters.is_empty() { "unknown" } else { "all zero" };
        let seconds = namespace.seconds();
        let text =
            if parts.is_empty() { none.to_owned() } else { format!("{}; over {seconds:.1} s", parts.join(", ")) };
        self.row("counters", &text)
    }

    fn table(&mut self, table: &Table) -> fmt::Result {
        let total = table.table_usage.entries;
        let share = |part: u64| (part * 100).checked_div(total).unwrap_or(0);
        if total == 0 {
            return Ok(());
        }
        let most = if self.all { usize::MAX } else { LISTED };
        self.backends("sources", &table.table_usage.sources, most)?;
        self.backends("services", &table.table_usage.services, most)?;
        let protocols: BTreeMap<String, u64> =
            table.protocols.iter().map(|(number, count)| (protocol(*number), *count)).collect();
        self.histogram("protocols", &protocols)?;
        self.histogram("tcp states", &table.states)?;
        let (unreplied, assured) = (grouped(table.unreplied), grouped(table.assured));
        self.row(
            "of them",
            &format!(
                "{unreplied} ({} %) unreplied, {assured} ({} %) assured, {} translated",
                share(table.unreplied),
                share(table.assured),
                grouped(table.translated)
            ),
        )?;
        for (index, usage) in table.ports.iter().take(most.min(LISTED)).enumerate() {
            let permille = usage.permille();
            let range = if usage.range == DEFAULT {
                String::new()
            } else {
                format!(" of {}-{}", usage.range.start(), usage.range.end())
            };
            let share = format!("{}.{} %", permille / 10, permille % 10);
            let text = format!(
                "{}: {} of {} ports{range} ({share})",
                usage.destination,
                grouped(usage.used),
                grouped(usage.usable())
            );
            self.row(if index == 0 { "nat ports" } else { "" }, &text)?;
        }
        match &table.table_usage.problem {
            Some(problem) => self.row("", &Plain(problem).to_string()),
            None => Ok(()),
        }
    }

    fn backends<T: Display>(&mut self, name: &str, backends: &[(T, u64)], most: usize) -> fmt::Result {
        let listed: Vec<String> =
            backends.iter().take(most).map(|(what, count)| format!("{what} {}", grouped(*count))).collect();
        self.row(name, &listed.join(", "))
    }

    fn histogram<T: Display>(&mut self, name: &str, counts: &BTreeMap<T, u64>) -> fmt::Result {
        let mut counts: Vec<(&T, &u64)> = counts.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let listed: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {}", grouped(**count))).collect();
        if listed.is_empty() { Ok(()) } else { self.row(name, &listed.join(", ")) }
    }

    /// The sysctls that differ from the kernel's defaults, or all.
    fn sysctls(&mut self, namespace: &Namespace) -> fmt::Result {
        let mut first = true;
        for sysctl in ALL {
            let Some(value) = namespace.sysctl(sysctl.name) else { continue };
            let usual = match sysctl.kind {
                Kind::Timeout { default, .. } => value == default,
                Kind::Size(_) => true,
                Kind::Switch { .. } => !matches!(
                    sysctl.name,
                    "nf_conntrack_tcp_be_liberal" | "nf_conntrack_tcp_loose" | "nf_conntrack_checksum"
                ),
            };
            if usual && !self.all {
                continue;
            }
            let name = sysctl.name.trim_start_matches("nf_conntrack_");
            self.row(if first { "sysctls" } else { "" }, &format!("{name} {value}: {}", sysctl.says(value)))?;
            first = false;
        }
        Ok(())
    }

    fn rules(&mut self, audit: &Audit) -> fmt::Result {
        let most = if self.all { usize::MAX } else { RULES };
        for (index, noted) in audit.noted.iter().take(most).enumerate() {
            let rule = &noted.rule;
            let hooks = rule.hooks.names().join(", ");
            let hooks = if hooks.is_empty() { "not reached from a hook".to_owned() } else { format!("at {hooks}") };
            let more = match &noted.does {
                Does::SendsInvalid { to } => format!(" to {to}"),
                _ => String::new(),
            };
            let text = format!("{}{more} {hooks}: {rule}: {}", noted.does.name(), rule.text);
            self.row(if index == 0 { "rules" } else { "" }, &Plain(&text).to_string())?;
        }
        for chain in &audit.drops {
            let hooks = chain.hooks.names().join(", ");
            let text = format!("policy drop at {hooks}: {} {} {}", chain.backend.name(), chain.table, chain.name);
            self.row(if audit.noted.is_empty() { "rules" } else { "" }, &Plain(&text).to_string())?;
        }
        let folded = audit.noted.len().saturating_sub(most) as u64;
        if folded > 0 {
            let more = counted(folded, "rule", "rules");
            self.row("", &format!("{} and {more}; --verbose lists all", self.style.pick("…", "...")))?;
        }
        Ok(())
    }

    fn hooks(&mut self) -> fmt::Result {
        writeln!(self.to, "\n{STRONG}hooks{STRONG:#}")?;
        for (hook, state) in &self.facts.tracing.hooks {
            let spec = hook.spec();
            let state = match state {
                HookState::Attached => "available".to_owned(),
                HookState::Waiting { module } => format!("waits for {module}"),
                HookState::Unavailable { because } => format!("unavailable: {because}"),
            };
            self.row(spec.name, &format!("{} by {}: {}", spec.symbol, spec.method.name(), Plain(&state)))?;
        }
        Ok(())
    }

    /// A name and its text; further lines are indented.
    fn row(&mut self, name: &str, text: &str) -> fmt::Result {
        let mut lines = self.wrap(text, NAME + 2).into_iter();
        writeln!(self.to, "  {FAINT}{name:<NAME$}{FAINT:#}{}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(self.to, "  {:NAME$}{line}", ""))
    }

    fn indented(&mut self, text: &str, columns: usize) -> fmt::Result {
        self.wrap(text, columns).iter().try_for_each(|line| writeln!(self.to, "{:columns$}{line}", ""))
    }

    fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        match self.style.width {
            Some(width) => {
                let options = Options::new(width.saturating_sub(indent).max(20)).break_words(false);
                textwrap::wrap(text, options).into_iter().map(std::borrow::Cow::into_owned).collect()
            }
            None => vec![text.to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_advice::doctor::diagnose;
    use tracer_model::health::{NetnsRef, Sample};
    use tracer_testing::doctor::healthy;

    use super::render;
    use crate::style::TextStyle;

    fn text(facts: &tracer_model::health::Facts, all: bool) -> String {
        let style = TextStyle { width: Some(80), symbols: false, ..TextStyle::default() };
        anstream::adapter::strip_str(&render(facts, &diagnose(facts), style, all)).to_string()
    }

    #[test]
    fn a_healthy_gateway_on_one_screen() {
        let text = text(&healthy(), false);
        for expected in [
            "This host can be traced. 1 hook is available.\nConntrack is healthy, as far as whyrst could read it.\n",
            "\ngw (netns 1)\n",
            "  entries       1 of 262,144 (0 %), +0.0/s; 262,144 buckets\n",
            "  sources       10.0.0.2 1\n",
            "  nat ports     192.0.2.1 to tcp 192.0.2.2:443: 1 of 64,512 ports (0.0 %)\n",
            "  rules         masquerades at postrouting: inet t c handle 7: what it says\n",
            "    whyrst mitigate drop-invalid-input\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().count() < 50, "{text}");
    }

    /// Of a ruleset that was sent, nothing but its rules is known.
    #[test]
    fn a_ruleset_of_a_file() {
        let mut facts = healthy();
        facts.tracing = tracer_model::health::Tracing::default();
        let namespace = &mut facts.namespaces[0];
        namespace.place = NetnsRef { name: Some("rules.save\u{1b}[2J".to_owned()), home: true, ..NetnsRef::default() };
        namespace.loaded = vec!["IPv4: loaded with iptables-nft-restore".to_owned(), "line 3: \u{1b}[2J".to_owned()];
        (namespace.before, namespace.after) = (Sample::default(), Sample::default());
        (namespace.sysctls, namespace.table) = (std::collections::BTreeMap::new(), None);
        namespace.links.clear();
        for all in [false, true] {
            let text = text(&facts, all);
            for expected in [
                "The rules alone: nothing else of their host is known.\n\nrules.save\\u{1b}[2J (netns 1)\n",
                "  loaded        IPv4: loaded with iptables-nft-restore\n                line 3: \\u{1b}[2J\n",
                "  rules         masquerades at postrouting: inet t c handle 7: what it says\n",
                "  INVALID       a server's segment",
            ] {
                assert!(text.contains(expected), "{expected}\n{text}");
            }
            for absent in ["traced", "healthy", "  entries", "  counters", "\nhooks\n"] {
                assert!(!text.contains(absent), "{absent}\n{text}");
            }
        }
    }

    /// Names of hosts, namespaces, chains and rules may be malicious.
    #[test]
    fn foreign_names_are_escaped() {
        const HOSTILE: &str = "x\u{1b}[2J\u{202e}\nfine: y";
        let mut facts = healthy();
        facts.host.hostname = HOSTILE.to_owned();
        facts.host.kernel = HOSTILE.to_owned();
        facts.tracing.problem = Some(HOSTILE.to_owned());
        facts.host.unread.push(HOSTILE.to_owned());
        let namespace = &mut facts.namespaces[0];
        namespace.place.name = Some(HOSTILE.to_owned());
        namespace.unread.push(HOSTILE.to_owned());
        let audit = namespace.audit.as_mut().unwrap();
        audit.problems.push(HOSTILE.to_owned());
        let mut noted = audit.noted[0].clone();
        for text in [&mut noted.rule.table, &mut noted.rule.chain, &mut noted.rule.text] {
            *text = HOSTILE.to_owned();
        }
        for does in [tracer_model::ruleset::audit::Does::Untracks, tracer_model::ruleset::audit::Does::RejectsInvalid] {
            audit.noted.push(tracer_model::ruleset::audit::Noted { does, ..noted.clone() });
        }
        let drawn = render(
            &facts,
            &diagnose(&facts),
            TextStyle { width: Some(80), symbols: false, ..TextStyle::default() },
            true,
        );
        assert!(!drawn.contains("\u{1b}[2J") && !drawn.contains('\u{202e}'), "{drawn:?}");
        assert!(!drawn.contains("\nfine: y"), "{drawn}");
    }
}
