//! Findings on obstacles to tracing, and on hooks that are missing.

use tracer_common::Hook;
use tracer_model::capture::HookState;
use tracer_model::finding::{Finding, Severity};
use tracer_model::health::{Machine, Tracing};

/// Upper bound for the BPF maps, in bytes: the ring buffer and the maps of destroyed entries, with a margin.
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
            title: "nf_conntrack is not loaded: this host does not track connections".to_owned(),
            evidence: Vec::new(),
            advice: vec![
                "load the ruleset that needs it; to start a capture as soon as it is loaded:".to_owned(),
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
            title: format!("the hooks of this kernel are unknown: {problem}"),
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
        // A kernel without these functions has no such rules; the tracepoint is needed only without kprobes.
        Hook::LinkRejectV4 | Hook::LinkRejectV6 | Hook::ResetTracepoint | Hook::NewRefused => Severity::Info,
        _ => Severity::Warning,
    };
    let advice = match hook {
        Hook::ResetTracepoint => "this kernel does not support --without-kprobes; with kprobes nothing is missing",
        Hook::LinkRejectV4 | Hook::LinkRejectV6 => "reports will lack the RSTs of REJECT rules of bridges",
        Hook::NewRefused => "this kernel does not support --new-refused: silent refusals are inferred",
        _ => "reports will lack the events of this hook",
    };
    Some(Finding {
        id: "hook-unavailable",
        severity,
        title: format!("{} ({}) cannot be attached: {because}", spec.name, spec.symbol),
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
    // Without conntrack all hooks wait for it; `conntrack-not-loaded` reports that.
    if waiting.is_empty() || !tracing.conntrack {
        return None;
    }
    Some(Finding {
        id: "hooks-waiting",
        severity: Severity::Info,
        title: format!("{} hooks wait for their modules", waiting.len()),
        evidence: waiting.iter().map(|(symbol, module)| ((*symbol).to_owned(), (*module).to_owned())).collect(),
        advice: vec![
            "nothing is missed: a rule that rejects loads its module, and whyrst attaches the hook then".to_owned(),
        ],
    })
}

fn fields(tracing: &Tracing) -> Option<Finding> {
    (!tracing.missing_fields.is_empty()).then(|| Finding {
        id: "fields-missing",
        severity: Severity::Info,
        title: "this kernel lacks some fields of other kernels".to_owned(),
        evidence: vec![("fields".to_owned(), tracing.missing_fields.join(", "))],
        advice: vec!["reports omit what depends on them".to_owned()],
    })
}

fn memory(tracing: &Tracing) -> Vec<Finding> {
    let limits = tracing.memory;
    let locked = limits.locked.filter(|bytes| *bytes < MAPS).map(|bytes| Finding {
        id: "memlock-limit",
        severity: Severity::Warning,
        title: format!("this process may lock {} KiB of memory, too little for the BPF maps", bytes >> 10),
        evidence: vec![("rlimit_memlock".to_owned(), bytes.to_string()), ("needed".to_owned(), MAPS.to_string())],
        advice: vec!["ulimit -l unlimited".to_owned(), "in a systemd unit: LimitMEMLOCK=infinity".to_owned()],
    });
    let group = limits.group_left.filter(|bytes| *bytes < MAPS).map(|bytes| Finding {
        id: "memory-limit",
        severity: Severity::Warning,
        title: format!(
            "the control group of this process has {} MiB of memory left; BPF maps may take 64",
            bytes >> 20
        ),
        evidence: vec![("left".to_owned(), bytes.to_string()), ("needed".to_owned(), MAPS.to_string())],
        advice: vec!["raise memory.max of the group, or run whyrst outside it".to_owned()],
    });
    locked.into_iter().chain(group).collect()
}
