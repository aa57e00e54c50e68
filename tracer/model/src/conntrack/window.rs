//! The window check of conntrack's TCP tracker, restated (`tcp_in_window`, `net/netfilter/nf_conntrack_proto_tcp.c`,
//! 5.10 to 7.2).
//!
//! With S the sender's side of the entry and R the receiver's, all differences signed 32-bit:
//!
//! ```text
//! I    seq  <= S.td_maxend                          the segment starts inside the receiver's window
//! II   end  >= S.td_end - R.td_maxwin               it does not end before everything the receiver may still want
//! III  sack <= R.td_end                             it acknowledges only what was sent
//! IV   sack >= R.td_end - max(S.td_maxwin, 66000)   its acknowledgement is not hopelessly old
//! ```

use super::entry::{Direction, Entry, Seen};
use super::seq::Seq;
use crate::conntrack::log_format::LogFormat;

/// `MAXACKWINCONST`: an acknowledgement may always be this many bytes old.
pub const MAX_ACK_WINDOW: u32 = 66_000;

/// Which inequality a segment missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// I: it starts beyond the receiver's window.
    SeqOver,
    /// I, but only by less than the receiver's window: a sender that takes no notice of a shrunk window (not in 5.10).
    Overshot,
    /// II: it ends before the window; the receiver has it already.
    SeqUnder,
    /// III: it acknowledges data that conntrack has not seen.
    AckOver,
    /// IV: it acknowledges data that was acknowledged long ago.
    AckUnder,
}

impl Failure {
    /// The inequality's number in the documentation of this module.
    pub const fn inequality(self) -> &'static str {
        match self {
            Self::SeqOver | Self::Overshot => "I",
            Self::SeqUnder => "II",
            Self::AckOver => "III",
            Self::AckUnder => "IV",
        }
    }
}

/// The fields of a segment that the check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First sequence number.
    pub seq: Seq,
    /// Sequence number after the last byte; SYN and FIN count as one each.
    pub end: Seq,
    /// The acknowledgement, where the ACK flag is set.
    pub ack: Option<Seq>,
    /// The right edges of its SACK blocks, in order.
    pub sack_edges: [Option<Seq>; 4],
    /// The RST flag.
    pub rst: bool,
}

/// A window check explained: what was compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// Which inequality failed.
    pub failure: Failure,
    /// The last value that would have passed.
    pub bound: Seq,
    /// The segment's own value: `seq` for I, `end` for II, `sack` for III and IV.
    pub value: Seq,
    /// How far the value is on the wrong side of the bound, in bytes; at least 1.
    pub distance: u32,
    /// The sender's side of the entry.
    pub sender: Seen,
    /// The receiver's side of the entry.
    pub receiver: Seen,
    /// Which direction the segment belongs to.
    pub direction: Direction,
    /// Where the bound comes from.
    pub source: BoundSource,
    /// Whether testing all inequalities against the entry as it was read finds the same one first.
    pub agrees: bool,
}

/// Where an explanation's bound comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundSource {
    /// Computed from the entry, and the kernel gives no number to compare it with.
    Entry,
    /// Computed from the entry, and it is the number that the kernel gives.
    EntryAndKernel,
    /// The kernel's number. The entry moved on before it was read, or its sequence numbers are adjusted by a helper.
    Kernel,
}

/// The value and bound of one inequality.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    value: Seq,
    bound: Seq,
    /// Whether values above the bound fail, rather than below.
    upper: bool,
}

impl Comparison {
    /// Bytes on the wrong side; zero or negative where the inequality holds.
    const fn excess(self) -> i32 {
        if self.upper { self.value.since(self.bound) } else { self.bound.since(self.value) }
    }
}

/// The acknowledgement as the check sees it: the highest of the ACK and, where the receiver of the segment understands
/// SACK, the right edges of the SACK blocks.
fn effective_ack(segment: &Segment, receiver: &Seen) -> Seq {
    match segment.ack {
        // No ACK: the check pretends that everything was acknowledged. So it does for the RSTs of broken stacks that
        // set the flag and acknowledge 0.
        None => receiver.td_end,
        Some(Seq(0)) if segment.rst => receiver.td_end,
        Some(ack) if receiver.sack_permitted() => segment
            .sack_edges
            .into_iter()
            .flatten()
            .fold(ack, |highest, edge| if edge.after(highest) { edge } else { highest }),
        Some(ack) => ack,
    }
}

fn compare(failure: Failure, segment: &Segment, sender: &Seen, receiver: &Seen) -> Comparison {
    let sack = || effective_ack(segment, receiver);
    match failure {
        Failure::SeqOver | Failure::Overshot => Comparison { value: segment.seq, bound: sender.td_maxend, upper: true },
        Failure::SeqUnder => {
            Comparison { value: segment.end, bound: sender.td_end.minus(receiver.td_maxwin), upper: false }
        }
        Failure::AckOver => Comparison { value: sack(), bound: receiver.td_end, upper: true },
        Failure::AckUnder => {
            let oldest = receiver.td_end.minus(sender.td_maxwin.max(MAX_ACK_WINDOW));
            Comparison { value: sack(), bound: oldest, upper: false }
        }
    }
}

/// The bound that a number in the kernel's message stands for. The kernel's own bounds are exclusive.
const fn bound_of_logged(failure: Failure, logged: u32, segment: &Segment) -> Seq {
    match failure {
        Failure::SeqOver | Failure::AckOver => Seq(logged.wrapping_sub(1)),
        Failure::SeqUnder | Failure::AckUnder => Seq(logged.wrapping_add(1)),
        // "%u bytes more than expected" is end - td_maxend + 1.
        Failure::Overshot => segment.end.plus(1).minus(logged),
    }
}

/// Explains the failure that the kernel has reported; `None` where neither the entry nor the message supports it.
pub fn explain(
    failure: Failure,
    logged: Option<u32>,
    segment: &Segment,
    entry: &Entry,
    direction: Direction,
    log_format: LogFormat,
) -> Option<Explanation> {
    let (sender, receiver) = (entry.side(direction), entry.side(direction.other()));
    let computed = compare(failure, segment, sender, receiver);
    let (comparison, source) = match logged.map(|number| bound_of_logged(failure, number, segment)) {
        None => (computed, BoundSource::Entry),
        Some(bound) if bound == computed.bound => (computed, BoundSource::EntryAndKernel),
        Some(bound) => (Comparison { bound, ..computed }, BoundSource::Kernel),
    };
    let distance = u32::try_from(comparison.excess()).ok().filter(|distance| *distance > 0)?;
    Some(Explanation {
        failure,
        bound: comparison.bound,
        value: comparison.value,
        distance,
        sender: *sender,
        receiver: *receiver,
        direction,
        source,
        agrees: check(segment, entry, direction, log_format) == Some(failure),
    })
}

/// The first inequality that a segment misses, in the order in which kernels of this log format test them.
///
/// The entry must be as the check saw it: after the sender's side was initialised, before an overshot is recorded.
pub fn check(segment: &Segment, entry: &Entry, direction: Direction, log_format: LogFormat) -> Option<Failure> {
    let (sender, receiver) = (entry.side(direction), entry.side(direction.other()));
    let fails = |failure| compare(failure, segment, sender, receiver).excess() > 0;
    let window_known = receiver.td_maxwin != 0;
    let seq_under = window_known && fails(Failure::SeqUnder);
    if fails(Failure::SeqOver) {
        let overshot = segment.end.minus(sender.td_maxend.0).plus(1).0;
        let only_seq = window_known && !seq_under && !fails(Failure::AckOver) && !fails(Failure::AckUnder);
        let tolerated = log_format != LogFormat::E1 && only_seq && overshot <= receiver.td_maxwin;
        return Some(if tolerated { Failure::Overshot } else { Failure::SeqOver });
    }
    let ack_over = fails(Failure::AckOver).then_some(Failure::AckOver);
    let seq_under = seq_under.then_some(Failure::SeqUnder);
    let ack_under = || fails(Failure::AckUnder).then_some(Failure::AckUnder);
    match log_format {
        LogFormat::E1 | LogFormat::E2 => seq_under.or(ack_over).or_else(ack_under),
        LogFormat::E3 | LogFormat::E4 | LogFormat::Unknown => ack_over.or(seq_under).or_else(ack_under),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BoundSource, Failure, MAX_ACK_WINDOW, Segment, check, explain};
    use crate::conntrack::entry::Status;
    use crate::conntrack::log_format::LogFormat;
    use crate::conntrack::{Direction, Entry, Seen, Seq, TcpState, Tuple};

    /// The check on numbers that do not wrap: positions in a stream, as far from zero as they like. It is written down
    /// apart from the code above, from the description of what the kernel does, and shares nothing with it.
    #[derive(Debug, Clone, Copy)]
    struct Model {
        seq: i64,
        end: i64,
        ack: Option<i64>,
        sack: Option<i64>,
        s_end: i64,
        s_maxend: i64,
        s_maxwin: i64,
        r_end: i64,
        r_maxwin: i64,
        r_sack: bool,
    }

    /// What the model finds: which inequality, the bound that the kernel would log, and by how much it is missed.
    #[derive(Debug, PartialEq, Eq)]
    struct Found {
        failure: Failure,
        logged: i64,
        distance: i64,
    }

    impl Model {
        fn sack(&self) -> i64 {
            let Some(ack) = self.ack else { return self.r_end };
            match self.sack {
                Some(edge) if self.r_sack && edge > ack => edge,
                _ => ack,
            }
        }

        fn find(&self, log_format: LogFormat) -> Option<Found> {
            let oldest_ack = self.r_end - if self.s_maxwin > 66_000 { self.s_maxwin } else { 66_000 };
            let lowest_end = self.s_end - self.r_maxwin;
            let one = self.seq > self.s_maxend;
            let two = self.r_maxwin != 0 && self.end < lowest_end;
            let three = self.sack() > self.r_end;
            let four = self.sack() < oldest_ack;
            if one {
                let overshot = self.end - self.s_maxend + 1;
                let alone = !two && !three && !four && self.r_maxwin != 0 && overshot <= self.r_maxwin;
                let distance = self.seq - self.s_maxend;
                return Some(if alone && log_format != LogFormat::E1 {
                    Found { failure: Failure::Overshot, logged: overshot, distance }
                } else {
                    Found { failure: Failure::SeqOver, logged: self.s_maxend + 1, distance }
                });
            }
            let second = two.then(|| Found {
                failure: Failure::SeqUnder,
                logged: lowest_end - 1,
                distance: lowest_end - self.end,
            });
            let third = three.then(|| Found {
                failure: Failure::AckOver,
                logged: self.r_end + 1,
                distance: self.sack() - self.r_end,
            });
            let fourth = four.then(|| Found {
                failure: Failure::AckUnder,
                logged: oldest_ack - 1,
                distance: oldest_ack - self.sack(),
            });
            match log_format {
                LogFormat::E1 | LogFormat::E2 => second.or(third).or(fourth),
                _ => third.or(second).or(fourth),
            }
        }

        /// The same situation on the circle, with the streams starting at these numbers.
        fn wrapped(&self, sender: u32, receiver: u32) -> (Segment, Entry) {
            let at =
                |base: u32, position: i64| Seq(base.wrapping_add(u32::try_from(position.rem_euclid(1 << 32)).unwrap()));
            let width = |bytes: i64| u32::try_from(bytes).unwrap();
            let segment = Segment {
                seq: at(sender, self.seq),
                end: at(sender, self.end),
                ack: self.ack.map(|ack| at(receiver, ack)),
                sack_edges: [self.sack.map(|edge| at(receiver, edge)), None, None, None],
                rst: false,
            };
            let seen = |end, maxend, maxwin, flags| Seen {
                td_end: end,
                td_maxend: maxend,
                td_maxwin: maxwin,
                td_maxack: Seq(0),
                td_scale: 0,
                flags,
            };
            let of_sender = seen(at(sender, self.s_end), at(sender, self.s_maxend), width(self.s_maxwin), 0);
            let sack_permitted = if self.r_sack { 2 } else { 0 };
            let of_receiver = seen(at(receiver, self.r_end), Seq(0), width(self.r_maxwin), sack_permitted);
            let tuple = Tuple { src: "10.0.0.2:1".parse().unwrap(), dst: "192.0.2.2:2".parse().unwrap() };
            let entry = Entry {
                original: tuple,
                reply: tuple.reversed(),
                zone: 0,
                status: Status(0),
                state: TcpState::Established,
                seen: [of_receiver, of_sender],
                last_dir: Direction::Original,
                last_end: Seq(0),
            };
            (segment, entry)
        }
    }

    prop_compose! {
        /// Situations around every edge: each quantity is near the one that it is compared with, or far away.
        fn situation()(
            s_end in -1_000_000i64..1_000_000,
            r_end in -1_000_000i64..1_000_000,
            room in 0i64..200_000,
            s_maxwin in 0i64..3_000_000,
            r_maxwin in prop_oneof![Just(0i64), 1i64..3_000_000],
            len in 0i64..70_000,
            from_s in prop_oneof![-3i64..3, -4_000_000i64..4_000_000],
            edge_of_seq in 0..3,
            from_r in prop_oneof![-3i64..3, -4_000_000i64..4_000_000],
            edge_of_ack in 0..2,
            has_ack in prop::bool::weighted(0.9),
            sack in prop::option::of(-100_000i64..100_000),
            r_sack in any::<bool>(),
        ) -> Model {
            let s_maxend = s_end + room;
            let seq = from_s + match edge_of_seq { 0 => s_maxend, 1 => s_end - r_maxwin - len, _ => s_end };
            let ack = from_r + if edge_of_ack == 0 { r_end } else { r_end - s_maxwin.max(66_000) };
            Model {
                seq,
                end: seq + len,
                ack: has_ack.then_some(ack),
                sack: sack.map(|distance| ack + distance),
                s_end,
                s_maxend,
                s_maxwin,
                r_end,
                r_maxwin,
                r_sack,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        /// The first inequality that fails, its bound, and the distance are those of the model, wherever on the circle the
        /// two streams start, the wrap included.
        #[test]
        fn agrees_with_the_model(
            model in situation(),
            sender in prop_oneof![any::<u32>(), (u32::MAX - 5_000_000)..=u32::MAX, 0u32..5_000_000],
            receiver in prop_oneof![any::<u32>(), (u32::MAX - 5_000_000)..=u32::MAX, 0u32..5_000_000],
            log_format in prop_oneof![Just(LogFormat::E1), Just(LogFormat::E2), Just(LogFormat::E3), Just(LogFormat::E4)],
        ) {
            let (segment, entry) = model.wrapped(sender, receiver);
            let found = model.find(log_format);
            prop_assert_eq!(check(&segment, &entry, Direction::Reply, log_format), found.as_ref().map(|found| found.failure));
            let Some(Found { failure, logged, distance }) = found else { return Ok(()) };
            let base = if matches!(failure, Failure::AckOver | Failure::AckUnder) { receiver } else { sender };
            let logged = if failure == Failure::Overshot { 0 } else { base }
                .wrapping_add(u32::try_from(logged.rem_euclid(1 << 32)).unwrap());

            let computed = explain(failure, None, &segment, &entry, Direction::Reply, log_format).unwrap();
            prop_assert_eq!(i64::from(computed.distance), distance);
            prop_assert_eq!(computed.source, BoundSource::Entry);
            prop_assert!(computed.agrees);

            let confirmed = explain(failure, Some(logged), &segment, &entry, Direction::Reply, log_format).unwrap();
            prop_assert_eq!(confirmed.source, BoundSource::EntryAndKernel);
            prop_assert_eq!(confirmed.bound, computed.bound);
            prop_assert_eq!(confirmed.distance, computed.distance);
        }
    }

    /// The figures of the documented incident.
    #[test]
    fn the_late_retransmission() {
        let model = Model {
            seq: 3_270_668_047,
            end: 3_270_669_047,
            ack: Some(2_102_471_179),
            sack: None,
            s_end: 3_271_668_047,
            s_maxend: 3_271_700_168,
            s_maxwin: 64_000,
            r_end: 2_102_471_179,
            r_maxwin: 32_121,
            r_sack: false,
        };
        let (segment, entry) = model.wrapped(0, 0);
        let explained = explain(Failure::SeqUnder, None, &segment, &entry, Direction::Reply, LogFormat::E1).unwrap();
        assert_eq!(explained.bound, Seq(3_271_635_926));
        assert_eq!(explained.value, Seq(3_270_669_047));
        assert_eq!(explained.distance, 966_879);
        assert!(explained.agrees);
    }

    /// From 6.1.184 on the message is logged when the lock is released: the entry may have moved on. The kernel's number
    /// holds.
    #[test]
    fn the_kernel_s_number_holds_where_the_entry_has_moved_on() {
        let mut model = Model {
            seq: 900,
            end: 1_000,
            ack: Some(0),
            sack: None,
            s_end: 50_000,
            s_maxend: 60_000,
            s_maxwin: 64_000,
            r_end: 0,
            r_maxwin: 20_000,
            r_sack: false,
        };
        let logged = 50_000 - 20_000 - 1;
        model.s_end = 55_000;
        let (segment, entry) = model.wrapped(0, 0);
        let explained =
            explain(Failure::SeqUnder, Some(logged), &segment, &entry, Direction::Reply, LogFormat::E4).unwrap();
        assert_eq!(explained.source, BoundSource::Kernel);
        assert_eq!(explained.bound, Seq(30_000));
        assert_eq!(explained.distance, 29_000);
    }

    #[test]
    fn a_message_that_nothing_supports_explains_nothing() {
        let model = Model {
            seq: 0,
            end: 100,
            ack: Some(0),
            sack: None,
            s_end: 0,
            s_maxend: i64::from(MAX_ACK_WINDOW),
            s_maxwin: 1,
            r_end: 0,
            r_maxwin: 1,
            r_sack: false,
        };
        let (segment, entry) = model.wrapped(0, 0);
        assert_eq!(explain(Failure::SeqOver, None, &segment, &entry, Direction::Reply, LogFormat::E1), None);
    }
}
