//! Parsers of option values, with their error messages.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Arg;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use ipnet::IpNet;

use tracer_model::cause::{Cause, Reason};
use tracer_model::mitigation::MitigationId;

pub(super) fn cause_parser() -> impl TypedValueParser<Value = Cause> {
    CauseParser
}

/// Parses causes. For a reason, the error names its cause.
#[derive(Clone)]
struct CauseParser;

impl CauseParser {
    fn words() -> PossibleValuesParser {
        PossibleValuesParser::new(Cause::ALL.iter().map(|cause| cause.name()))
    }
}

impl TypedValueParser for CauseParser {
    type Value = Cause;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&Arg>, value: &OsStr) -> Result<Cause, clap::Error> {
        let word = value.to_str().unwrap_or_default();
        if let Ok(cause) = word.parse() {
            return Ok(cause);
        }
        if let Ok(reason) = word.parse::<Reason>() {
            let text = format!("'{word}' is a reason, not a cause: its cause is {}", reason.cause());
            return Err(clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command));
        }
        // The error lists the causes, and suggests a similar one.
        Self::words().parse_ref(command, arg, value)?;
        Err(clap::Error::new(ErrorKind::InvalidValue).with_cmd(command))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words: Vec<PossibleValue> = Cause::ALL.iter().map(|cause| PossibleValue::new(cause.name())).collect();
        Some(Box::new(words.into_iter()))
    }
}

pub(super) fn mitigation_parser() -> impl TypedValueParser<Value = MitigationId> {
    let names = MitigationId::ALL.iter().map(|id| id.name());
    PossibleValuesParser::new(names).try_map(|word| word.parse::<MitigationId>())
}

/// A name that an interface can have (`dev_valid_name`).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let valid = (1..16).contains(&text.len()) && text != "." && text != "..";
    let odd = |it: char| it == '/' || it == ':' || it.is_whitespace() || it.is_control();
    if valid && !text.contains(odd) { Ok(text.to_owned()) } else { Err("not a valid interface name".to_owned()) }
}

pub(super) fn service(text: &str) -> Result<std::net::SocketAddr, String> {
    let parsed = text.parse::<std::net::SocketAddr>().ok().filter(|service| service.port() != 0);
    parsed.ok_or_else(|| "not an address with a port like 198.51.100.7:443 or [2001:db8::7]:443".to_owned())
}

pub(super) fn duration_or_none(text: &str) -> Result<Duration, String> {
    if ["0", "0s"].contains(&text) { Ok(Duration::ZERO) } else { duration(text) }
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    parsed.ok_or_else(|| "not an address or network like 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32".to_owned())
}

/// The smallest value of --rotate: several times the header of a file.
const SMALLEST: u64 = 16 << 10;

pub(super) fn size(text: &str) -> Result<u64, String> {
    let Ok(size) = text.parse::<bytesize::ByteSize>() else {
        return Err("not a size like 64MiB, 500MB or 1GiB".to_owned());
    };
    if size.0 < SMALLEST { Err(format!("less than {} KiB", SMALLEST >> 10)) } else { Ok(size.0) }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // A number without a unit is seconds, as for sleep(1).
    let text = if text.bytes().all(|byte| byte.is_ascii_digit()) { format!("{text}s") } else { text.to_owned() };
    let Ok(parsed) = text.parse::<jiff::SignedDuration>() else {
        return Err("not a time like 60s, 5m or 1h30m".to_owned());
    };
    match Duration::try_from(parsed) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be longer than 0".to_owned()),
    }
}
