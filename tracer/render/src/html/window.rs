//! The diagram of a failed window check: the axis of sequence numbers, conntrack's bounds, and the segment outside them.
//!
//! All positions are relative to the missed bound, so that sequence numbers do not wrap.

use tracer_engine::flow::ConntrackVerdict;
use tracer_model::conntrack::Seq;
use tracer_model::conntrack::window::{BoundSource, Explanation, Failure, MAX_ACK_WINDOW};

use super::canvas::{Area, Canvas, LINE, width_of};
use crate::sentences;

/// Width of the picture.
const WIDTH: i32 = 740;
/// Width of the window in it.
const WINDOW: i32 = 300;
/// The least and the most that stands for the distance between window and segment.
const DISTANCE: (i32, i32) = (44, 220);
/// The same for the segment itself.
const SEGMENT: (i32, i32) = (10, 110);
/// The position of the axis.
const GROUND: i32 = 118;
/// The distance of marks from the axis.
const TALL: i32 = 22;

/// A number on the axis.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Point {
    /// Difference to the missed bound.
    at: i64,
    number: Seq,
    /// Its meaning, in the terms of the entry.
    what: String,
}

/// The content: the window, and the segment outside it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    /// The bounds and the numbers between them, in order; at least one.
    window: Vec<Point>,
    /// First and last number of the segment, or its acknowledgement.
    segment: Vec<Point>,
    /// Whether the segment lies above the window.
    above: bool,
    /// Which bound was missed.
    missed: usize,
}

/// Draws the window check that a segment failed. `id` makes the picture's identifiers unique.
pub(super) fn draw(logged: &ConntrackVerdict, window: &Explanation, id: &str, title: &str) -> String {
    let (canvas, height) = picture(logged, window);
    canvas.finish(id, WIDTH, height, title, &sentences::window(window))
}

fn plan(logged: &ConntrackVerdict, window: &Explanation) -> Plan {
    let (s, r) = (&window.sender, &window.receiver);
    let (sender, receiver) = (sentences::end_of(window.direction), sentences::end_of(window.direction.other()));
    let point = |number: Seq, what: String| Point { at: i64::from(number.since(window.bound)), number, what };
    let acknowledges = matches!(window.failure, Failure::AckOver | Failure::AckUnder);
    let above = matches!(window.failure, Failure::SeqOver | Failure::Overshot | Failure::AckOver);
    let bounds = if acknowledges {
        let oldest = s.td_maxwin.max(MAX_ACK_WINDOW);
        vec![
            point(r.td_end.minus(oldest), format!("oldest accepted ACK = {receiver}.td_end − {oldest}")),
            point(r.td_end, format!("{receiver}.td_end: the end of its data")),
        ]
    } else {
        let mut points = vec![
            point(s.td_end, format!("{sender}.td_end: the end of its data")),
            point(s.td_maxend, format!("upper bound = {sender}.td_maxend")),
        ];
        // Conntrack tests no lower bound before it knows a window.
        if r.td_maxwin != 0 {
            let what = format!("lower bound = {sender}.td_end − {receiver}.td_maxwin {}", r.td_maxwin);
            points.insert(0, point(s.td_end.minus(r.td_maxwin), what));
        }
        points
    };
    // If the entry changed before it was read, its numbers are not those of the check.
    let moved = window.source == BoundSource::Kernel;
    let mut points: Vec<Point> =
        bounds.into_iter().filter(|point| !moved && (point.at == 0 || (point.at < 0) == above)).collect();
    if !points.iter().any(|point| point.at == 0) {
        let side = if above { "upper" } else { "lower" };
        points.push(point(window.bound, format!("{side} bound, as logged by the kernel")));
    }
    points.sort_by_key(|point| point.at);
    let missed = if above {
        points.iter().rposition(|point| point.at == 0)
    } else {
        points.iter().position(|point| point.at == 0)
    };
    let segment = match logged.event.packet.filter(|_| !acknowledges) {
        Some(packet) => vec![point(packet.seq, "seq".to_owned()), point(packet.end(), "end".to_owned())],
        None => vec![point(window.value, if acknowledges { "ack" } else { "segment" }.to_owned())],
    };
    Plan { window: points, segment, above, missed: missed.unwrap_or(0) }
}

/// Bytes in units of the picture, in which the window is `WINDOW` wide.
fn scaled(bytes: i64, window: i64, (least, most): (i32, i32)) -> (i32, bool) {
    let units = i128::from(bytes.max(0)) * i128::from(WINDOW) / i128::from(window.max(1));
    let exact = i32::try_from(units).unwrap_or(i32::MAX);
    (exact.clamp(least, most), (least..=most).contains(&exact))
}

fn picture(logged: &ConntrackVerdict, window: &Explanation) -> (Canvas, i32) {
    let plan = plan(logged, window);
    let bytes = match (plan.window.first(), plan.window.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => 0,
    };
    let (distance, to_scale) = scaled(i64::from(window.distance), bytes, DISTANCE);
    let length = match plan.segment.as_slice() {
        [seq, end] => end.at - seq.at,
        _ => 0,
    };
    let (segment, _) = scaled(length, bytes, SEGMENT);
    let whole = WINDOW + distance + segment;
    let left = (WIDTH - whole) / 2;
    let (window_x, segment_x) =
        if plan.above { (left, left + WINDOW + distance) } else { (left + segment + distance, left) };
    let mut canvas = Canvas::default();
    let alone = bytes == 0;
    // A window with one known bound is open on the other side.
    let place = |point: &Point| {
        let first = plan.window.first().map_or(0, |first| first.at);
        if alone {
            return if plan.above { window_x + WINDOW } else { window_x };
        }
        let units = i128::from(point.at - first) * i128::from(WINDOW) / i128::from(bytes);
        window_x + i32::try_from(units).unwrap_or(WINDOW)
    };
    canvas.line("axis", (16, GROUND), (WIDTH - 16, GROUND));
    canvas.head("axis-head", (WIDTH - 8, GROUND), true);
    canvas.rect("window", Area { x: window_x, y: GROUND - 16, width: WINDOW, height: 32 });
    centred(&mut canvas, "label good", window_x + WINDOW / 2, GROUND - 24, "accepted");
    canvas.rect("segment", Area { x: segment_x, y: GROUND - 16, width: segment, height: 32 });
    let bound = plan.window.get(plan.missed).map_or(window_x, &place);
    let near = if plan.above { segment_x } else { segment_x + segment };
    dimension(&mut canvas, (near.min(bound), near.max(bound)), &sentences::bytes(u64::from(window.distance)), to_scale);
    let mut y = GROUND - TALL - 3 * LINE - 16;
    for (point, x) in plan.segment.iter().zip([segment_x, segment_x + segment]) {
        canvas.line("leader bad", (x, y + 4), (x, GROUND - 16));
        beside(&mut canvas, "label bad", x, y, &format!("{} {}", point.what, point.number));
        y += LINE;
    }
    let mut y = GROUND + TALL + LINE;
    let mut labels = Vec::new();
    for (number, point) in plan.window.iter().enumerate().rev() {
        let x = place(point);
        let class = if number == plan.missed { "missed" } else { "plain" };
        canvas.line(&format!("leader {class}"), (x, GROUND - 16), (x, y - 11));
        labels.push((format!("label {class}"), x, y, format!("{} · {}", point.number, point.what)));
        y += LINE + 4;
    }
    // Labels on top of all lines, because a line of another number may cross them.
    for (class, x, y, text) in labels {
        beside(&mut canvas, &class, x, y, &text);
    }
    (canvas, y)
}

/// The distance, between two marks; broken if it is not to the window's scale.
fn dimension(canvas: &mut Canvas, (from, to): (i32, i32), text: &str, to_scale: bool) {
    let y = GROUND - 28;
    let middle = i32::midpoint(from, to);
    if to_scale {
        canvas.line("dimension", (from, y), (to, y));
    } else {
        let zigzag: Vec<(i32, i32)> = [(-8, 0), (-4, -6), (4, 6), (8, 0)].map(|(x, up)| (middle + x, y + up)).into();
        canvas.line("dimension", (from, y), (middle - 8, y));
        canvas.path("dimension", &zigzag);
        canvas.line("dimension", (middle + 8, y), (to, y));
    }
    for x in [from, to] {
        canvas.line("dimension", (x, y - 5), (x, y + 5));
    }
    centred(canvas, "label bad strong", middle, GROUND - 24 - LINE, text);
}

/// A label around `x`, inside the picture.
fn centred(canvas: &mut Canvas, class: &str, x: i32, y: i32, text: &str) {
    let width = width_of(text);
    canvas.label(class, ((x - width / 2).clamp(4, (WIDTH - 4 - width).max(4)), y), text);
}

/// A label that begins at `x`, or ends there if it would leave the picture.
fn beside(canvas: &mut Canvas, class: &str, x: i32, y: i32, text: &str) {
    let width = width_of(text);
    let start = if x + 4 + width <= WIDTH - 4 { x + 4 } else { x - 4 - width };
    canvas.label(class, (start.clamp(4, (WIDTH - 4 - width).max(4)), y), text);
}

#[cfg(test)]
mod tests;
