//! The content of the page: the report, in reading order.

use std::collections::BTreeMap;
use std::io;

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use tracer_advice::report::{FlowReport, Report};
use tracer_engine::flow::{ConntrackVerdict, EvidenceRank, Flow};
use tracer_model::capture::{HookState, Origin};
use tracer_model::cause::{Cause, Diagnosis};
use tracer_model::conntrack::Seen;
use tracer_model::conntrack::window::Explanation;
use tracer_model::finding::Finding;
use tracer_model::mitigation::Mitigation;

use super::{escape, sequence, window};
use crate::sentences::{Headline, Line, Mark, Weight, counted, grouped};
use crate::style::TextStyle;
use crate::{json, sentences};

/// The most flows that are shown in full. The diagrams of one take about 30 kB.
const DETAILED: usize = 200;
/// Headlines of the same cause.
const HEADLINES: usize = 10;
/// Flows of each kind that are shown in full before more of any kind are.
const OF_EACH_KIND: usize = 10;
/// Flows that are unfolded at first; all are if there are at most `UNFOLDED_ALL`.
const UNFOLDED: usize = 3;
const UNFOLDED_ALL: usize = 8;

/// Rows of the table that are shown at first; a script shows the others on request.
const AT_ONCE: usize = 200;

const STYLE: &str = include_str!("../../templates/style.css");
/// Runs before the table is parsed: shows the controls that need a script, and limits the layout of a long table.
const FIRST: &str = "document.documentElement.classList.add(\"js\");";
const SCRIPT: &str = include_str!("../../templates/script.js");

/// The page.
#[derive(Template)]
#[template(path = "report.html")]
pub(super) struct Page<'a> {
    policy: String,
    style: &'static str,
    first: &'static str,
    script: &'static str,
    report: &'a Report,
    source: String,
    started: String,
    ended: String,
    duration: String,
    facts: Vec<(&'static str, String)>,
    headlines: Vec<Headline<'a>>,
    causes: Vec<(Cause, u64)>,
    rows: Vec<Row<'a>>,
    details: Vec<Detail<'a>>,
    folded: Option<String>,
    several_namespaces: bool,
    hooks: Vec<HookRow>,
    evidence: String,
}

/// A line of the table.
struct Row<'a> {
    number: usize,
    detailed: bool,
    first: String,
    path: Vec<String>,
    namespace: Option<String>,
    diagnosis: Diagnosis,
    reason: Option<String>,
    by: &'static str,
    flow: &'a Flow,
    refused: u64,
    resets: u64,
}

/// A flow that is shown in full.
struct Detail<'a> {
    number: usize,
    open: bool,
    row: Row<'a>,
    sentence: Option<String>,
    before: Vec<String>,
    steps: Vec<StepView>,
    sequence: String,
    windows: Vec<WindowView>,
    report: &'a FlowReport,
}

/// A step, with further lines.
struct StepView {
    step: Line,
    symbol: &'static str,
    class: &'static str,
    more: Vec<String>,
}

/// A window check that failed.
struct WindowView {
    picture: String,
    inequality: String,
    text: String,
    sides: Vec<(&'static str, &'static str, Seen)>,
    agrees: bool,
}

/// A hook.
struct HookRow {
    symbol: &'static str,
    state: String,
    hits: String,
}

impl<'a> Page<'a> {
    pub(super) fn new(report: &'a Report) -> io::Result<Self> {
        let host = &report.host;
        let detailed = detailed(report);
        let mut document = Vec::new();
        json::write_of(report, detailed.iter().map(|index| &report.flows[*index]), &mut document)?;
        let evidence = escape::json(&String::from_utf8_lossy(&document));
        let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
        for flow in &report.flows {
            *causes.entry(flow.flow.incident.diagnosis.cause).or_default() += 1;
        }
        let is_detailed: std::collections::BTreeSet<usize> = detailed.iter().copied().collect();
        let rows = report.flows.iter().enumerate().map(|(index, flow)| {
            let mut row = Row::new(report, flow, index);
            row.detailed = is_detailed.contains(&index);
            row
        });
        let all = report.flows.len();
        let folded = (detailed.len() < all).then(|| {
            format!(
                "{} of {} are shown in full: the first {OF_EACH_KIND} of each kind, then the first ones of the table. The \
                 table lists all; `whyrst report --format json` contains all.",
                grouped(detailed.len() as u64),
                counted(all as u64, "flow", "flows"),
            )
        });
        let netns = |flow: &FlowReport| flow.flow.key.netns;
        let instant = |at| host.clock.wall(at).strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        Ok(Self {
            policy: policy(),
            style: STYLE,
            first: FIRST,
            script: SCRIPT,
            report,
            source: match &report.origin {
                Origin::Live => "captured from the running kernel".to_owned(),
                Origin::Recording { path, .. } => format!("read from the recording {path}"),
            },
            started: instant(report.started),
            ended: instant(report.ended),
            duration: format!("{:.1} s", report.duration().as_secs_f64()),
            facts: facts(report),
            headlines: sentences::headlines(report, HEADLINES),
            causes: causes.into_iter().collect(),
            rows: rows.collect(),
            details: detailed
                .iter()
                .enumerate()
                .map(|(position, index)| Detail::new(report, *index, position, detailed.len()))
                .collect(),
            folded,
            several_namespaces: report.flows.windows(2).any(|pair| netns(&pair[0]) != netns(&pair[1])),
            hooks: report.hooks.iter().map(HookRow::new).collect(),
            evidence,
        })
    }

    fn findings(&self) -> &'a [Finding] {
        &self.report.findings
    }

    fn mitigations(&self) -> &'a [Mitigation] {
        &self.report.mitigations
    }
}

/// The flows that are shown in full, in the order of the report: the first ones of each kind, then the first ones of all.
fn detailed(report: &Report) -> Vec<usize> {
    let mut of_kind: BTreeMap<(EvidenceRank, Diagnosis), usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    let mut rest = Vec::new();
    for (index, flow) in report.flows.iter().enumerate() {
        let incident = &flow.flow.incident;
        let count = of_kind.entry((incident.rank(), incident.diagnosis)).or_default();
        *count += 1;
        if *count <= OF_EACH_KIND { chosen.push(index) } else { rest.push(index) }
    }
    chosen.truncate(DETAILED);
    chosen.extend(rest.into_iter().take(DETAILED - chosen.len()));
    chosen.sort_unstable();
    chosen
}

/// Facts of the capture.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let attached = report.hooks.iter().filter(|line| line.state == HookState::Attached).count();
    let mut facts = vec![
        ("Host", report.host.hostname.clone()),
        ("Kernel", format!("Linux {} (conntrack log format {})", report.host.kernel, report.host.log_format.name())),
        ("Hooks", format!("{} of {} attached", attached, report.hooks.len())),
        ("Events", sentences::events(report)),
        ("Packets refused", grouped(report.summary.tally.invalid)),
        ("RSTs sent by this gateway", grouped(report.summary.tally.resets)),
        ("Connections reset by it", grouped(report.summary.flows_reset)),
    ];
    if let Some(hidden) = report.filtered {
        facts.push(("Filtered", format!("{} of other flows omitted", counted(hidden, "event", "events"))));
    }
    facts
}

/// The content security policy: the page may run its own scripts and use its own style, nothing else.
fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; script-src 'sha256-{}' 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(FIRST),
        hash(SCRIPT),
        hash(STYLE)
    )
}

impl<'a> Row<'a> {
    fn new(report: &'a Report, flow: &'a FlowReport, index: usize) -> Self {
        let key = &flow.flow.key;
        let stations = [Some(key.client()), key.nat(), key.service(), Some(key.server())];
        let diagnosis = flow.flow.incident.diagnosis;
        let tally = flow.flow.tally();
        Self {
            number: index + 1,
            detailed: true,
            first: report.host.clock.wall(flow.flow.first).strftime("%H:%M:%S%.6f").to_string(),
            path: stations.into_iter().flatten().map(|endpoint| endpoint.to_string()).collect(),
            namespace: flow.netns_name.clone().or_else(|| key.netns.map(|inode| inode.to_string())),
            diagnosis,
            reason: diagnosis
                .reason
                .map(|reason| reason.name().to_owned())
                .or_else(|| sentences::kernel_reason(&flow.flow, &report.host)),
            by: flow.flow.reset_by().map_or("", |by| by.name()),
            flow: &flow.flow,
            refused: tally.invalid,
            resets: tally.resets,
        }
    }
}

impl<'a> Detail<'a> {
    fn new(whole: &'a Report, index: usize, position: usize, of: usize) -> Self {
        let report = &whole.flows[index];
        let (flow, host) = (&report.flow, &whole.host);
        let number = index + 1;
        let (mut before, mut steps): (Vec<String>, Vec<StepView>) = (Vec::new(), Vec::new());
        for mut step in sentences::lines(report, host, TextStyle::default()) {
            step.text = step.text.replace(sentences::TIED, " ");
            match (step.mark, steps.last_mut()) {
                (Mark::More, Some(last)) => last.more.push(step.text + &step.time),
                (Mark::More, None) if step.text.is_empty() => before.push(step.time),
                (Mark::More, None) => before.push(step.text),
                _ => steps.push(StepView::new(step)),
            }
        }
        let lines = steps.iter().map(|view| format!("{} {} {}", view.step.time, view.step.who, view.step.text));
        let description: Vec<String> = lines.collect();
        let title = format!("Time and sequence of flow {number}");
        let incident = &flow.incident;
        let verdicts = incident.follows.iter().chain(&incident.logged);
        let windows = verdicts.enumerate().filter_map(|(nth, logged)| {
            Some(WindowView::new(logged, logged.window.as_ref()?, &format!("w{number}-{nth}"), number))
        });
        Self {
            number,
            open: position < UNFOLDED || of <= UNFOLDED_ALL,
            row: Row::new(whole, report, index),
            sentence: (incident.rank() >= EvidenceRank::Forwarded).then(|| sentences::incident(flow)),
            before,
            sequence: sequence::draw(report, host, &format!("s{number}"), &title, &description.join(". ")),
            windows: windows.collect(),
            steps,
            report,
        }
    }

    /// The topic of `whyrst explain`.
    fn topic(&self) -> &'static str {
        let diagnosis = self.row.diagnosis;
        diagnosis.reason.map_or(diagnosis.cause.name(), |reason| reason.name())
    }
}

impl StepView {
    fn new(step: Line) -> Self {
        let (symbol, class) = match step.mark {
            Mark::More => ("", ""),
            Mark::Segment => ("▸", "plain"),
            Mark::Bad => ("✗", "bad"),
            Mark::Good => ("✓", "good"),
            Mark::Unsure | Mark::Unknown => ("?", "warn"),
            Mark::Back => ("←", "bad"),
            Mark::Entry => ("·", "plain"),
        };
        Self { step, symbol, class, more: Vec::new() }
    }
}

impl WindowView {
    fn new(logged: &ConntrackVerdict, explained: &Explanation, id: &str, number: usize) -> Self {
        let (sender, receiver) =
            (sentences::end_of(explained.direction), sentences::end_of(explained.direction.other()));
        Self {
            picture: window::draw(logged, explained, id, &format!("Window check of flow {number}")),
            inequality: format!("{}: {}", explained.failure.inequality(), sentences::inequality(explained)),
            text: sentences::window(explained),
            sides: vec![("sender", sender, explained.sender), ("receiver", receiver, explained.receiver)],
            agrees: explained.agrees,
        }
    }
}

impl HookRow {
    fn new(line: &tracer_engine::hook_line::HookLine) -> Self {
        let spec = line.hook.spec();
        Self {
            symbol: spec.symbol,
            state: match &line.state {
                HookState::Attached => spec.method.name().to_owned(),
                HookState::Waiting { module } => format!("not attached: module {module} is not loaded"),
                HookState::Unavailable { because } => format!("not attached: {because}"),
            },
            hits: grouped(line.counters.hits()),
        }
    }
}
