//! What is in the page: the report, in the order and the words in which it is read.

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

/// Most flows that are told in full. What is drawn of one takes about 30 kB.
const TOLD: usize = 200;
/// Headlines of the same cause.
const STORIES: usize = 10;
/// Flows of each kind that are told in full before there are more of any kind.
const OF_EACH_KIND: usize = 10;
/// Flows that are unfolded from the start; where there are no more than `UNFOLDED_ALL`, all are.
const UNFOLDED: usize = 3;
const UNFOLDED_ALL: usize = 8;

/// Rows of the table that are seen at once; a script shows the others when they are asked for.
const AT_ONCE: usize = 200;

const STYLE: &str = include_str!("../../templates/style.css");
/// Runs before the table is there: what needs a script is shown, and of a long table no more is laid out than is to be seen.
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
    told: Vec<AnnotatedEvent<'a>>,
    folded: Option<String>,
    several_namespaces: bool,
    hooks: Vec<HookRow>,
    evidence: String,
}

/// A line of the table.
struct Row<'a> {
    number: usize,
    told: bool,
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

/// A flow that is told in full.
struct AnnotatedEvent<'a> {
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

/// A step, and what there is more to say about it.
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
        let told = told(report);
        let mut document = Vec::new();
        json::write_of(report, told.iter().map(|index| &report.flows[*index]), &mut document)?;
        let evidence = escape::json(&String::from_utf8_lossy(&document));
        let mut causes: BTreeMap<Cause, u64> = BTreeMap::new();
        for flow in &report.flows {
            *causes.entry(flow.flow.incident.diagnosis.cause).or_default() += 1;
        }
        let is_told: std::collections::BTreeSet<usize> = told.iter().copied().collect();
        let rows = report.flows.iter().enumerate().map(|(index, flow)| {
            let mut row = Row::new(report, flow, index);
            row.told = is_told.contains(&index);
            row
        });
        let all = report.flows.len();
        let folded = (told.len() < all).then(|| {
            format!(
                "{} of {} are told in full: the first {OF_EACH_KIND} of each kind, then those that come first in the table. \
                 The table has all; `whyrst report --format json` tells all.",
                grouped(told.len() as u64),
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
            headlines: sentences::headlines(report, STORIES),
            causes: causes.into_iter().collect(),
            rows: rows.collect(),
            told: told
                .iter()
                .enumerate()
                .map(|(place, index)| AnnotatedEvent::new(report, *index, place, told.len()))
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

/// The flows that are told in full, in the order of the report: of each kind the first ones, then the first ones of all.
fn told(report: &Report) -> Vec<usize> {
    let mut of_kind: BTreeMap<(EvidenceRank, Diagnosis), usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    let mut rest = Vec::new();
    for (index, flow) in report.flows.iter().enumerate() {
        let incident = &flow.flow.incident;
        let count = of_kind.entry((incident.rank(), incident.diagnosis)).or_default();
        *count += 1;
        if *count <= OF_EACH_KIND { chosen.push(index) } else { rest.push(index) }
    }
    chosen.truncate(TOLD);
    chosen.extend(rest.into_iter().take(TOLD - chosen.len()));
    chosen.sort_unstable();
    chosen
}

/// What the reader needs to know how far to trust the page.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let attached = report.hooks.iter().filter(|line| line.state == HookState::Attached).count();
    let mut facts = vec![
        ("Host", report.host.hostname.clone()),
        (
            "Kernel",
            format!("Linux {} (conntrack's logging of era {})", report.host.kernel, report.host.log_format.name()),
        ),
        ("Hooks", format!("{} of {} attached", attached, report.hooks.len())),
        ("Events", sentences::events(report)),
        ("Packets refused", grouped(report.summary.tally.invalid)),
        ("RSTs sent by this gateway", grouped(report.summary.tally.resets)),
        ("Connections reset by it", grouped(report.summary.flows_reset)),
    ];
    if let Some(hidden) = report.filtered {
        facts.push(("Filtered", format!("{} of other flows left out", counted(hidden, "event", "events"))));
    }
    facts
}

/// What the page may do: run its own script, use its own style, and nothing else.
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
            told: true,
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

impl<'a> AnnotatedEvent<'a> {
    fn new(whole: &'a Report, index: usize, place: usize, of: usize) -> Self {
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
        let told = steps.iter().map(|view| format!("{} {} {}", view.step.time, view.step.who, view.step.text));
        let description: Vec<String> = told.collect();
        let title = format!("Time and sequence of flow {number}");
        let incident = &flow.incident;
        let refusals = incident.follows.iter().chain(&incident.logged);
        let windows = refusals.enumerate().filter_map(|(nth, logged)| {
            Some(WindowView::new(logged, logged.window.as_ref()?, &format!("w{number}-{nth}"), number))
        });
        Self {
            number,
            open: place < UNFOLDED || of <= UNFOLDED_ALL,
            row: Row::new(whole, report, index),
            sentence: (incident.rank() >= EvidenceRank::Forwarded).then(|| sentences::incident(flow)),
            before,
            sequence: sequence::draw(report, host, &format!("s{number}"), &title, &description.join(". ")),
            windows: windows.collect(),
            steps,
            report,
        }
    }

    /// The word that `whyrst explain` knows.
    fn word(&self) -> &'static str {
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
    fn new(line: &tracer_engine::conclusion::HookLine) -> Self {
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
