//! The targets of a rule as iptables-save prints them.

use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::Step;
use tracer_model::ruleset::{Family, Hooks};

use super::values::{masked, number, ports_of, translation};
use super::words::{Extension, Opt};
use crate::iptables::actions;

/// What a target does that is no chain of the table. The hooks are those that lead to the rule.
pub(super) fn steps(target: &Extension<'_>, family: Family, hooks: Hooks) -> Vec<Step> {
    let text = target.to_string();
    let read = if target.is_goto() { None } else { understood(target, family, hooks, &text) };
    read.unwrap_or_else(|| actions::not_understood(&text))
}

/// None where an option is not known that may matter, or its value cannot be read.
fn understood(target: &Extension<'_>, family: Family, hooks: Hooks, text: &str) -> Option<Vec<Step>> {
    let options = &target.options[..];
    let has = |name: &str| options.iter().any(|option| option.parts().0 == name);
    let only = |known: &[&str]| options.iter().all(|option| option.inside && known.contains(&option.parts().0));
    Some(match target.name {
        "ACCEPT" | "DROP" | "RETURN" | "NOTRACK" => {
            return options.is_empty().then(|| actions::named(target.name, text));
        }
        "QUEUE" => return options.is_empty().then(|| actions::queue(false)),
        "NFQUEUE" => {
            let known = ["--queue-num", "--queue-balance", "--queue-bypass", "--queue-cpu-fanout"];
            return only(&known).then(|| actions::queue(has("--queue-bypass")));
        }
        "REJECT" => match options {
            [] => actions::reject(false),
            [option] => match (option.parts().0, &option.parts().1[..]) {
                ("--reject-with", [with]) => actions::reject(*with == "tcp-reset"),
                _ => return None,
            },
            _ => return None,
        },
        "MARK" => {
            let [option] = options else { return None };
            let (value, mask) = set_mark(option)?;
            actions::mark(value, mask)
        }
        "CONNMARK" => {
            let known = ["--nfmask", "--ctmask", "--mask", "--left-shift-mark", "--right-shift-mark"];
            let (modes, masks): (Vec<&Opt<'_>>, Vec<&Opt<'_>>) =
                options.iter().partition(|option| !known.contains(&option.parts().0));
            match (&modes[..], masks.is_empty()) {
                ([mode], _) if mode.parts().0 == "--restore-mark" => actions::connmark(true, text),
                ([mode], _) if mode.parts().0 == "--save-mark" => actions::connmark(false, text),
                ([mode], _) if set_mark(mode).is_some() => actions::connmark(false, text),
                _ => return None,
            }
        }
        "SET" => {
            let known = ["--add-set", "--del-set", "--map-set", "--exist", "--timeout"];
            let maps = ["--map-mark", "--map-prio", "--map-queue"];
            let only_known = only(&[&known[..], &maps[..]].concat());
            return only_known.then(|| actions::set(has("--map-mark"), text));
        }
        "CT" => {
            let zone = ["--zone", "--zone-orig", "--zone-reply"];
            let known = ["--notrack", "--helper", "--timeout", "--ctevents", "--expevents"];
            let only_known = only(&[&known[..], &zone[..]].concat());
            return only_known.then(|| actions::ct(has("--notrack"), zone.into_iter().any(has), text));
        }
        "SNAT" | "DNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP" => {
            let to = translated(target.name, options, family)?;
            actions::translation(target.name, to, hooks, text)
        }
        "SYNPROXY" => {
            let known = ["--sack-perm", "--timestamp", "--ecn", "--wscale", "--mss"];
            return only(&known).then(|| actions::named("SYNPROXY", text));
        }
        "TPROXY" => {
            let known = ["--on-port", "--on-ip", "--tproxy-mark"];
            return only(&known).then(|| actions::named("TPROXY", text));
        }
        name => actions::named(name, text),
    })
}

/// `--set-xmark` and its like: `mark = (mark & ~mask) ^ value`.
fn set_mark(option: &Opt<'_>) -> Option<(u32, u32)> {
    let (name, values) = option.parts();
    let ([text], true) = (&values[..], option.inside) else { return None };
    let bits = || number(text);
    Some(match name {
        "--set-xmark" => masked(text)?,
        "--set-mark" => {
            let (value, mask) = masked(text)?;
            (value, value | mask)
        }
        "--and-mark" => (0, !bits()?),
        "--or-mark" => (bits()?, bits()?),
        "--xor-mark" => (bits()?, 0),
        _ => return None,
    })
}

fn translated(target: &str, options: &[Opt<'_>], family: Family) -> Option<Translation> {
    let mut to = None;
    for option in options {
        let (name, values) = option.parts();
        let read = match (target, name, &values[..], option.inside) {
            (_, "--random" | "--random-fully" | "--persistent", [], true) => continue,
            ("SNAT", "--to-source", [text], true) | ("DNAT", "--to-destination", [text], true) => {
                translation(text, family)?
            }
            ("MASQUERADE" | "REDIRECT", "--to-ports", [text], true) => {
                Translation { ports: Some(ports_of(text)?), ..Translation::default() }
            }
            ("NETMAP", "--to", [text], true) => {
                let (first, mask) = super::values::network(text, family)?;
                let last: Vec<u8> = first.iter().zip(&mask).map(|(byte, mask)| byte | !mask).collect();
                Translation { to: vec![address(&first)?..=address(&last)?], ..Translation::default() }
            }
            _ => return None,
        };
        if to.replace(read).is_some() {
            return None;
        }
    }
    match target {
        "MASQUERADE" | "REDIRECT" => Some(to.unwrap_or_default()),
        _ => to,
    }
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        _ => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
    }
}
