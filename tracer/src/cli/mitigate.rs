//! `whyrst mitigate`: lists mitigations, prints one, applies it and undoes it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use tracer_advice::report::{FlowReport, Report};
use tracer_advice::{Target, describe, in_force, wanted};
use tracer_engine::session;
use tracer_host::mitigate::apply::boot_id;
use tracer_host::mitigate::journal::{Entries, Entry as Applied, Journal, State};
use tracer_host::mitigate::live::Seen;
use tracer_host::mitigate::places::Places;
use tracer_host::mitigate::undo::Undo;
use tracer_host::mitigate::verify::counted;
use tracer_host::mitigate::watch::Mark;
use tracer_host::mitigate::{apply, live};
use tracer_host::netns::inode_of_name;
use tracer_host::{attach, hostname};
use tracer_model::capture::Origin;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::filter::Filter;
use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::watched::Window;
use tracer_model::mitigation::{Mitigation, MitigationId};
use tracer_recording::Recordings;
use tracer_render::mitigate::{Offer, Outcome, Verified};
use tracer_render::{json, mitigate as text};

use super::args::{Format, Global, LATEST, Mitigate};
use super::{Stop, output};

/// The timeout to raise if no connection names the expired one.
const TIMEOUT: &str = "nf_conntrack_tcp_timeout_established";
/// How often `--verify` reads the counters of rules.
const POLL: Duration = Duration::from_millis(250);

pub(super) fn run(arguments: &Mitigate, global: &Global) -> Result<ExitCode, Stop> {
    let Some(id) = arguments.id else {
        let offers = offers(arguments)?;
        deliver(arguments, global, &offers, None, |style| text::list(&offers, style))?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(entry) = &arguments.undo {
        let outcome = undo(id, entry, arguments)?;
        deliver(arguments, global, &[], Some(&outcome), |_| text::outcome(&outcome))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (offer, targets) = offer(id, arguments)?;
    if !arguments.apply {
        let offers = [offer];
        deliver(arguments, global, &offers, None, |style| text::one(&offers[0], style))?;
        return Ok(ExitCode::SUCCESS);
    }
    let outcome = apply(&offer.mitigation, &targets, arguments, global)?;
    deliver(arguments, global, &[offer], Some(&outcome), |_| text::outcome(&outcome))?;
    Ok(ExitCode::SUCCESS)
}

fn deliver(
    arguments: &Mitigate,
    global: &Global,
    offers: &[Offer],
    outcome: Option<&Outcome>,
    as_text: impl FnOnce(tracer_render::style::TextStyle) -> String,
) -> anyhow::Result<()> {
    let path = arguments.output.as_deref();
    let style = output::style(path.is_some(), global)?;
    match arguments.format {
        Format::Json => output::deliver_document(path, |to| json::write_mitigate(offers, outcome, to)),
        Format::Text => output::deliver(path, global, |to| to.write_all(as_text(style).as_bytes())),
    }
}

/// All mitigations: for a recording's flows, or for this host.
fn offers(arguments: &Mitigate) -> Result<Vec<Offer>, Stop> {
    if let Some(path) = &arguments.from {
        let report = report(path)?;
        return Ok(MitigationId::ALL.into_iter().map(|id| recorded(&report, id)).collect());
    }
    let seen = see(arguments)?;
    let log_format = log_format();
    Ok(MitigationId::ALL.into_iter().map(|id| here(id, &target(&seen, arguments), log_format)).collect())
}

/// One mitigation, and its namespaces.
fn offer(id: MitigationId, arguments: &Mitigate) -> Result<(Offer, Vec<(u32, NetnsPath)>), Stop> {
    let Some(path) = &arguments.from else {
        let seen = see(arguments)?;
        let targets = vec![(seen.facts.inode, seen.context.netns_path.clone())];
        return Ok((here(id, &target(&seen, arguments), log_format()), targets));
    };
    let report = report(path)?;
    if !arguments.apply {
        return Ok((recorded(&report, id), Vec::new()));
    }
    let own = hostname();
    if report.host.hostname != own {
        return Err(anyhow!(
            "{} was recorded on host {:?}, but this host is {own:?}: apply the mitigation there",
            path.display(),
            report.host.hostname
        )
        .into());
    }
    let flows: Vec<&FlowReport> = report.flows.iter().filter(|flow| flow.mitigations.contains(&id)).collect();
    if flows.is_empty() {
        return Err(anyhow!("{id} helps no connection of {}", path.display()).into());
    }
    let same_boot = report.host.boot.as_deref() == Some(boot_id()?.as_str());
    let mut all: BTreeMap<u32, (Seen, Vec<&FlowReport>)> = BTreeMap::new();
    for flow in flows {
        let leads_to = |name: &String| inode_of_name(name).with_context(|| format!("network namespace {name:?}"));
        let named = match &flow.netns_name {
            Some(name) => Some((name.as_str(), leads_to(name)?)),
            None => None,
        };
        let inode = netns_of(named, flow.flow.key.netns, same_boot)?;
        let seen = match all.entry(inode) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let seen = live::see(Some(inode)).with_context(|| format!("network namespace {inode}"))?;
                new.insert((seen, Vec::new()))
            }
        };
        seen.1.push(flow);
    }
    let targets: Vec<(u32, NetnsPath)> =
        all.iter().map(|(inode, (seen, _))| (*inode, seen.context.netns_path.clone())).collect();
    let described: Vec<Target<'_>> = all.values().map(|(seen, flows)| wanted(with_rules(seen), flows)).collect();
    let mut mitigation = describe(id, &described);
    if !same_boot {
        mitigation.notes.push("the recording is of another boot of a host with this name".to_owned());
    }
    let not_because = apply::obstacle(&mitigation).map(|obstacle| obstacle.to_string());
    Ok((Offer { mitigation, not_because }, targets))
}

/// The namespace that a flow was recorded in, and that its name leads to now if it has one. A name is bound anew, and the kernel
/// gives the number of a namespace to another one; after a restart all of them are others.
fn netns_of(named: Option<(&str, u32)>, recorded: Option<u32>, same_boot: bool) -> anyhow::Result<u32> {
    match (named, recorded) {
        (Some((name, found)), Some(recorded)) if same_boot && found != recorded => bail!(
            "the name {name:?} led to the network namespace {recorded} when it was recorded, and leads to {found} now"
        ),
        (Some((_, found)), _) => Ok(found),
        (None, Some(recorded)) if same_boot => Ok(recorded),
        (None, Some(recorded)) => bail!(
            "the recording is of another boot of a host with this name, and knows the network namespace by its number \
             {recorded} only, which means another one now: without --from, --netns names it"
        ),
        (None, None) => bail!("the recording does not name the network namespace of its connections"),
    }
}

/// A mitigation from the report of a recording.
fn recorded(report: &Report, id: MitigationId) -> Offer {
    match report.mitigations.iter().find(|known| known.id == id) {
        Some(mitigation) => Offer { mitigation: mitigation.clone(), not_because: None },
        None => Offer {
            mitigation: describe(id, &[]),
            not_because: Some(
                "it helps no connection of the recording, as far as the namespaces could be read".to_owned(),
            ),
        },
    }
}

/// A mitigation for this host, without an incident.
fn here(id: MitigationId, target: &Target<'_>, log_format: LogFormat) -> Offer {
    let mitigation = describe(id, std::slice::from_ref(target));
    let not_because = match id {
        MitigationId::UpgradeKernel => matches!(log_format, LogFormat::E3 | LogFormat::E4)
            .then(|| format!("this kernel already accepts such packets (conntrack log format {})", log_format.name())),
        MitigationId::Keepalive => None,
        MitigationId::ReviewRejectRule => target.rules.is_empty().then(|| "no rule rejects with a RST".to_owned()),
        MitigationId::IgnoreInvalidRst if log_format == LogFormat::E1 => {
            Some("this kernel lacks the sysctl (5.15 and later have it)".to_owned())
        }
        _ if mitigation.steps.is_empty() => Some(mitigation.notes.join("; ")),
        _ => None,
    };
    Offer { mitigation, not_because }
}

fn see(arguments: &Mitigate) -> Result<Seen, Stop> {
    let netns = arguments.netns()?;
    let seen = live::see(netns).context("reading the network namespace")?;
    if netns.is_some() && seen.facts.sysctls.is_empty() && !seen.context.problems.is_empty() {
        return Err(anyhow!("--netns: {}", seen.context.problems.join("; ")).into());
    }
    Ok(seen)
}

/// The target: what the arguments name, else what this host translates to.
fn target<'a>(seen: &'a Seen, arguments: &Mitigate) -> Target<'a> {
    let mut target = with_rules(seen);
    target.addresses = live::targets(&seen.context, &arguments.address, arguments.interface.as_deref());
    target.services = arguments.service.iter().copied().collect();
    target.timeouts = [TIMEOUT].into();
    target.rules.clone_from(&seen.rejecting);
    target
}

fn with_rules(seen: &Seen) -> Target<'_> {
    Target {
        ruleset: Some(&seen.ruleset),
        links: &seen.links,
        ..Target::new(Some(&seen.facts), Some(&seen.context), None)
    }
}

/// This kernel's conntrack log format; unknown if the kernel cannot be inspected.
fn log_format() -> LogFormat {
    let found =
        attach::symbols().map_err(anyhow::Error::from).and_then(|symbols| Ok(attach::Kernel::inspect(&symbols)?));
    found.map_or(LogFormat::Unknown, |kernel| kernel.log_format)
}

fn report(path: &Path) -> Result<Report, Stop> {
    let mut reader = Recordings::open(&[path.to_owned()])?;
    let session = session::replay(&mut reader, Filter::default(), |_, _, _| -> io::Result<()> { Ok(()) })
        .with_context(|| format!("reading {}", path.display()))?;
    let origin = Origin::Recording { path: path.display().to_string(), damage: reader.verdict() };
    Ok(Report::new(session.finish(origin)))
}

fn apply(
    mitigation: &Mitigation,
    targets: &[(u32, NetnsPath)],
    arguments: &Mitigate,
    global: &Global,
) -> Result<Outcome, Stop> {
    if let Some(obstacle) = apply::obstacle(mitigation) {
        return Err(obstacle.into());
    }
    root("--apply")?;
    if arguments.verify.is_some() && mitigation.steps.iter().all(|step| step.counters().is_none()) {
        return Err(anyhow!("--verify: {} has no rule with a counter that whyrst reads", mitigation.id).into());
    }
    let places = Places::of(targets, &mitigation.steps)?;
    let journal = Journal::open(&arguments.state_dir).context("the journal")?;
    let inodes: Vec<u32> = targets.iter().map(|(inode, _)| *inode).collect();
    apply::prepare(mitigation, &hostname(), &places)?;
    ask("commands", &mitigation.commands, arguments)?;
    let before = watch(&places, &inodes, arguments, global, "before")?;
    // Everything again: it may have changed meanwhile.
    same_plan(mitigation, arguments)?;
    let mut entry = apply::prepare(mitigation, &hostname(), &places)?;
    let path = apply::apply(&mut entry, &places, &journal)?;
    // From here on, Ctrl-C only ends the counting.
    let mut remarks = effects(mitigation, targets, arguments);
    let after = watch(&places, &inodes, arguments, global, "after").unwrap_or(None);
    let verified = match arguments.verify.map(|limit| verify(&entry, &places, limit, global)).transpose() {
        Ok(verified) => verified,
        Err(error) => {
            remarks.push(format!("--verify: {error:#}"));
            None
        }
    };
    Ok(Outcome {
        state: State::Applied.name(),
        entry: path.display().to_string(),
        commands: mitigation.commands.clone(),
        in_force: Some(true),
        verified,
        watched: before.zip(after),
        remarks,
    })
}

/// What becomes of the packets that the mitigation is about, now that it is in force: the rules are read again and walked.
fn effects(mitigation: &Mitigation, targets: &[(u32, NetnsPath)], arguments: &Mitigate) -> Vec<String> {
    if mitigation.id != MitigationId::DropInvalidInput {
        return Vec::new();
    }
    let mut remarks = Vec::new();
    for (inode, _) in targets {
        match live::see(Some(*inode)) {
            Ok(seen) => remarks.extend(in_force(&target(&seen, arguments))),
            Err(error) => remarks.push(format!("the rules of network namespace {inode} were not read again: {error}")),
        }
    }
    remarks
}

/// Plans again, and compares: the plan was made of what there was when it was printed.
fn same_plan(mitigation: &Mitigation, arguments: &Mitigate) -> Result<(), Stop> {
    let no_time = arguments.yes && arguments.watch.is_zero();
    if no_time || arguments.from.as_deref() == Some(Path::new("-")) {
        return Ok(());
    }
    let (now, _) = offer(mitigation.id, arguments)?;
    let (printed, now) = (&mitigation.commands, &now.mitigation.commands);
    if printed == now {
        return Ok(());
    }
    let but = |one: &[String], two: &[String]| {
        let lines: Vec<String> =
            one.iter().filter(|line| !two.contains(line)).map(|line| format!("`{line}`")).collect();
        if lines.is_empty() { "nothing".to_owned() } else { lines.join(" and ") }
    };
    let (missing, added) = (but(printed, now), but(now, printed));
    Err(anyhow!(
        "this host has changed since the commands were printed: instead of {missing} they would be {added} now; nothing \
         was changed"
    )
    .into())
}

/// Waits until a rule of the mitigation has counted a packet.
fn verify(entry: &Applied, places: &Places, limit: Duration, global: &Global) -> anyhow::Result<Verified> {
    let seconds = limit.as_secs_f64();
    output::say(global, &format!("waiting for the next packet that meets the rule, for {seconds} s at most"));
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(async {
        loop {
            let packets = counted(entry, places)?.context("it has no rule with a counter")?;
            let waited = start.elapsed();
            if packets > 0 || waited >= limit {
                return Ok(Verified { packets, waited });
            }
            tokio::select! {
                () = tokio::time::sleep(POLL.min(limit.saturating_sub(waited))) => {}
                _ = tokio::signal::ctrl_c() => return Ok(Verified { packets, waited: start.elapsed() }),
            }
        }
    })
}

fn undo(id: MitigationId, name: &str, arguments: &Mitigate) -> Result<Outcome, Stop> {
    root("--undo")?;
    let journal = Journal::open(&arguments.state_dir).context("the journal")?;
    let (name, mut entry, mut remarks) =
        if name == LATEST { latest(id, &journal)? } else { (name.to_owned(), journal.read(name)?, Vec::new()) };
    if entry.id != id {
        return Err(anyhow!("journal entry {name} is of {}, not of {id}", entry.id).into());
    }
    if !entry.state.is_open() {
        return Err(anyhow!("nothing to undo: {name} is already {}", entry.state.name()).into());
    }
    let plan = Undo::plan(&entry, arguments.force)?;
    let lines = plan.lines();
    ask("commands", &lines, arguments)?;
    remarks.extend(plan.run(&mut entry, &journal)?);
    if entry.boot != boot_id()? {
        remarks.push("it was applied before the last boot; this does not undo what makes it persistent".to_owned());
    }
    let path = arguments.state_dir.join(&name).display().to_string();
    let (in_force, verified) = (Some(false), None);
    Ok(Outcome {
        state: State::Undone.name(),
        entry: path,
        commands: lines,
        in_force,
        verified,
        watched: None,
        remarks,
    })
}

/// The latest journal entry of a mitigation that is still applied, and why others are left alone.
fn latest(id: MitigationId, journal: &Journal) -> Result<(String, Applied, Vec<String>), Stop> {
    let Entries { whole, refused } = journal.of(id)?;
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let last = whole.last().map(|(name, entry)| format!("; the last entry, {name}, is {}", entry.state.name()));
    let Some((name, entry)) = whole.into_iter().rfind(|(_, entry)| entry.state.is_open()) else {
        let nothing = format!("nothing to undo: whyrst has not applied {id}{}", last.unwrap_or_default());
        return Err(anyhow!([vec![nothing], refused].concat().join("; ")).into());
    };
    Ok((name, entry, refused))
}

fn root(what: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { bail!("{what} needs root") }
}

/// Prints the commands and asks for confirmation, unless `--yes` was given.
fn ask(what: &str, lines: &[String], arguments: &Mitigate) -> anyhow::Result<()> {
    if arguments.yes || lines.is_empty() {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        bail!("cannot ask for confirmation: standard input and standard error are not both terminals; use --yes");
    }
    let mut to = io::stderr().lock();
    writeln!(to, "{what}:")?;
    for line in lines {
        writeln!(to, "  {line}")?;
    }
    write!(to, "continue? [y/N] ")?;
    to.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("reading the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { bail!("not confirmed; nothing was changed") }
}

/// Counts until the time is over or Ctrl-C.
fn watch(
    places: &Places,
    inodes: &[u32],
    arguments: &Mitigate,
    global: &Global,
    when: &str,
) -> anyhow::Result<Option<Window>> {
    if arguments.watch.is_zero() {
        return Ok(None);
    }
    output::say(global, &format!("counting refused packets and RSTs {when}, for {} s", arguments.watch.as_secs_f64()));
    let first = Mark::now(places, inodes).context("reading the counters")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let interrupted = runtime.block_on(async {
        tokio::select! {
            () = tokio::time::sleep(arguments.watch) => false,
            _ = tokio::signal::ctrl_c() => true,
        }
    });
    if interrupted && when == "before" {
        bail!("interrupted; nothing was changed");
    }
    Ok(Some(Mark::now(places, inodes).context("reading the counters")?.since(&first)))
}

#[cfg(test)]
mod tests {
    use super::netns_of;

    /// A number means another namespace after a restart.
    #[test]
    fn the_namespace_of_a_recording() {
        let refused = |outcome: anyhow::Result<u32>| outcome.unwrap_err().to_string();
        assert_eq!(netns_of(None, Some(7), true).unwrap(), 7);
        let text = refused(netns_of(None, Some(7), false));
        assert!(text.contains("another boot") && text.contains("number 7 only"), "{text}");
        assert_eq!(netns_of(Some(("gw", 7)), Some(7), true).unwrap(), 7);
        assert_eq!(netns_of(Some(("gw", 8)), Some(7), false).unwrap(), 8);
        let text = refused(netns_of(Some(("gw", 8)), Some(7), true));
        assert!(text.contains("led to the network namespace 7") && text.contains("leads to 8 now"), "{text}");
        assert!(netns_of(None, None, true).is_err());
    }
}
