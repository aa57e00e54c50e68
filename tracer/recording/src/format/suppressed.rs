//! Frames of suppressed events. They are binary, because one frame may have tens of thousands of counts.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use tracer_common::Hook;
use tracer_common::ratelimit::Key;
use tracer_model::capture::{Suppressed, SuppressedEvents};
use tracer_model::suppressed;
use tracer_model::time::Instant;

/// The largest count; larger ones are cut to it, so that no sum overflows.
const COUNT_MAX: u64 = 1 << 40;

/// One kind of events. The frame is the time they were read at, nanoseconds of `CLOCK_BOOTTIME` as a `u64`, and these.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Counted {
    key: Key,
    count: u64,
    answered: u64,
    last_ns: u64,
}

pub(super) fn encode(suppressed: &Suppressed) -> Vec<u8> {
    let mut payload = suppressed.at.0.to_ne_bytes().to_vec();
    for events in &suppressed.events {
        let SuppressedEvents { count, answered, last, .. } = *events;
        let counted = Counted { key: suppressed::key(events), count, answered, last_ns: last.0 };
        payload.extend_from_slice(counted.as_bytes());
    }
    payload
}

/// The events of a payload; `None` where it is malformed. Events of unknown hooks are left out.
pub(super) fn decode(payload: &[u8]) -> Option<Suppressed> {
    let (at, counted) = payload.split_first_chunk()?;
    let counted = counted.chunks(size_of::<Counted>()).map(Counted::read_from_bytes);
    let counted: Vec<Counted> = counted.collect::<Result<_, _>>().ok()?;
    let events = |counted: Counted| {
        let Counted { key, count, answered, last_ns } = counted;
        Some(SuppressedEvents {
            count: count.min(COUNT_MAX),
            answered: answered.min(COUNT_MAX),
            last: Instant(last_ns),
            ..suppressed::events(&key, Hook::from_number(key.hook)?)
        })
    };
    Some(Suppressed { at: Instant(u64::from_ne_bytes(*at)), events: counted.into_iter().filter_map(events).collect() })
}

#[cfg(test)]
mod tests {
    use tracer_common::Hook;
    use tracer_model::capture::{Suppressed, SuppressedEvents};
    use tracer_model::conntrack::Tuple;
    use tracer_model::time::Instant;

    use super::{decode, encode};

    fn events(hook: Hook, tuple: Option<(&str, &str)>) -> SuppressedEvents {
        let tuple = tuple.map(|(src, dst)| Tuple { src: src.parse().unwrap(), dst: dst.parse().unwrap() });
        SuppressedEvents { hook, class: 7, netns: Some(4), tuple, count: 1 << 40, answered: 3, last: Instant(9) }
    }

    #[test]
    fn what_is_written_is_read() {
        let suppressed = Suppressed {
            at: Instant(10),
            events: vec![
                events(Hook::CtInvalid, Some(("192.0.2.2:443", "192.0.2.1:34567"))),
                events(Hook::ResetV6, Some(("[2001:db8::2]:443", "[2001:db8::1]:1"))),
                SuppressedEvents { netns: None, ..events(Hook::RejectV4, None) },
            ],
        };
        let payload = encode(&suppressed);
        assert_eq!(payload.len(), 8 + 3 * 72);
        assert_eq!(decode(&payload), Some(suppressed));
    }

    #[test]
    fn damage_is_not_read() {
        let whole = encode(&Suppressed { at: Instant(10), events: vec![events(Hook::CtInvalid, None)] });
        for length in 0..whole.len() {
            let read = decode(&whole[..length]);
            assert_eq!(read.is_some(), length == 8, "{length} bytes");
        }
    }
}
