//! What keeps whyrst from tracing, or from seeing all of it.

use tracer_common::Hook;
use tracer_model::capture::HookState;
use tracer_model::finding::{Finding, Severity};
use tracer_model::health::{Machine, Tracing};

/// Bytes that the BPF maps take at most, with room to spare: the ring buffer, and the maps of ended entries.
const MAPS: u64 = 32 << 20;

pub(super) fn findings(tracing: &Tracing, host: &Machine) -> Vec<Finding> {
    let mut found: Vec<Finding> = tracing
        .obstacles
        .iter()
        .map(|obstacle| Finding {
            id: obstacle.id,
            severity: Severity::Warning,
            title: format!("this host cannot be traced: {}", obstacle.what),
            evidence: Vec::new(),
            advice: vec![obstacle.fix.clone()],
        })
        .collect();
    if !tracing.conntrack {
        found.push(Finding {
            id: "conntrack-not-loaded",
            severity: Severity::Warning,
            title: "nf_conntrack is not loaded: nothing on this host tracks connections".to_owned(),
            evidence: Vec::new(),
            advice: vec![
                "load the ruleset that needs it; to begin a capture as soon as it is loaded:".to_owned(),
                "whyrst report --wait".to_owned(),
            ],
        });
    }
    found.extend(tracing.hooks.iter().filter_map(|(hook, state)| unavailable(*hook, state)));
    found.extend(waiting(tracing));
    found.extend(fields(tracing));
    found.extend(memory(tracing));
    if let Some(problem) = &tracing.problem {
        found.push(Finding {
            id: "hooks-unknown",
            severity: Severity::Warning,
            title: format!("which hooks this kernel has is not known: {problem}"),
            evidence: vec![("kernel".to_owned(), host.kernel.clone())],
            advice: Vec::new(),
        });
    }
    found
}

fn unavailable(hook: Hook, state: &HookState) -> Option<Finding> {
    let HookState::Unavailable { because } = state else { return None };
    let spec = hook.spec();
    let severity = match hook {
        // A kernel without these functions has no such rules either; the tracepoint is only there to do without kprobes.
        Hook::LinkRejectV4 | Hook::LinkRejectV6 | Hook::ResetTracepoint | Hook::NewRefused => Severity::Info,
        _ => Severity::Warning,
    };
    let advice = match hook {
        Hook::ResetTracepoint => "--without-kprobes is not for this kernel; with kprobes nothing is missing",
        Hook::LinkRejectV4 | Hook::LinkRejectV6 => "REJECT rules of bridges are not seen",
        Hook::NewRefused => "--new-refused is not for this kernel: silent refusals are inferred",
        _ => "what this hook would show will be missing from reports",
    };
    Some(Finding {
        id: "hook-unavailable",
        severity,
        title: format!("{} ({}) cannot be watched: {because}", spec.name, spec.symbol),
        evidence: vec![
            ("target".to_owned(), spec.symbol.to_owned()),
            ("method".to_owned(), spec.method.name().to_owned()),
        ],
        advice: vec![advice.to_owned()],
    })
}

fn waiting(tracing: &Tracing) -> Option<Finding> {
    let waiting: Vec<(&str, &str)> = tracing
        .hooks
        .iter()
        .filter_map(|(hook, state)| match state {
            HookState::Waiting { module } => Some((hook.spec().symbol, module.as_str())),
            _ => None,
        })
        .collect();
    // Without conntrack that is what all of them wait for, and it is said elsewhere.
    if waiting.is_empty() || !tracing.conntrack {
        return None;
    }
    Some(Finding {
        id: "hooks-waiting",
        severity: Severity::Info,
        title: format!("{} hooks are attached when their modules are loaded", waiting.len()),
        evidence: waiting.iter().map(|(symbol, module)| ((*symbol).to_owned(), (*module).to_owned())).collect(),
        advice: vec!["nothing is missed: a rule that rejects loads its module".to_owned()],
    })
}

fn fields(tracing: &Tracing) -> Option<Finding> {
    (!tracing.missing_fields.is_empty()).then(|| Finding {
        id: "fields-missing",
        severity: Severity::Info,
        title: "some fields of other kernels do not exist in this one".to_owned(),
        evidence: vec![("fields".to_owned(), tracing.missing_fields.join(", "))],
        advice: vec!["what depends on them is left out of reports".to_owned()],
    })
}

fn memory(tracing: &Tracing) -> Vec<Finding> {
    let limits = tracing.memory;
    let locked = limits.locked.filter(|bytes| *bytes < MAPS).map(|bytes| Finding {
        id: "memlock-limit",
        severity: Severity::Warning,
        title: format!("this process may lock {} KiB of memory, which is too little for the BPF maps", bytes >> 10),
        evidence: vec![("rlimit_memlock".to_owned(), bytes.to_string()), ("needed".to_owned(), MAPS.to_string())],
        advice: vec!["ulimit -l unlimited".to_owned(), "in a unit of systemd: LimitMEMLOCK=infinity".to_owned()],
    });
    let group = limits.group_left.filter(|bytes| *bytes < MAPS).map(|bytes| Finding {
        id: "memory-limit",
        severity: Severity::Warning,
        title: format!(
            "the control group of this process has {} MiB of memory left; BPF maps may take 64",
            bytes >> 20
        ),
        evidence: vec![("left".to_owned(), bytes.to_string()), ("needed".to_owned(), MAPS.to_string())],
        advice: vec!["raise memory.max of the group, or run whyrst outside of it".to_owned()],
    });
    locked.into_iter().chain(group).collect()
}
