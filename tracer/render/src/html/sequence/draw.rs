//! From rows and lifelines to a picture.

use tracer_advice::report::FlowReport;
use tracer_engine::flow::Flow;
use tracer_model::capture::Host;
use tracer_model::conntrack::Nfct;
use tracer_model::conntrack::entry::CtInfo;

use super::lanes::{AXIS, Lane, Lanes};
use super::rows::{Anchor, Known, Row, Shown, Sign, Tone, pause, rows, time};
use crate::html::canvas::{Area, Canvas, LINE, Point, columns, width_of, wrap};
use crate::html::scale::gaps;

/// Most columns of a label.
const LABEL: usize = 54;
/// Most lines of a label.
const LINES: usize = 4;
/// Between a sign and its label.
const BESIDE: i32 = 14;
/// Room above and below what a row shows.
const PADDING: i32 = 7;
/// Between two instants: the least, the most, and where time is left out.
const GAPS: (i32, i32, i32) = (12, 96, 34);
/// Where the axis is.
const SPINE: i32 = AXIS - 8;

/// A row with its place.
struct Placed<'a> {
    row: &'a Row,
    lines: Vec<String>,
    /// Where its label begins.
    top: i32,
    /// Where its arrow or sign is.
    y: i32,
}

/// Draws a flow. `id` makes the picture's identifiers unique.
pub(in crate::html) fn draw(report: &FlowReport, host: &Host, id: &str, title: &str, text: &str) -> String {
    let (canvas, width, height) = picture(report, host);
    canvas.finish(id, width, height, title, text)
}

pub(super) fn picture(report: &FlowReport, host: &Host) -> (Canvas, i32, i32) {
    let flow = &report.flow;
    let lanes = Lanes::of(flow, host);
    let rows = rows(report);
    let mut sheet = Sheet { canvas: Canvas::default(), lanes: &lanes };
    let (placed, instants) = place(&rows, &lanes);
    let bottom = placed.last().map_or(lanes.top, |last| last.y.max(last.top + height(last))) + PADDING + 4;
    sheet.ground(bottom);
    sheet.entry(flow, &placed, bottom);
    sheet.lifelines(&placed, bottom);
    sheet.axis(flow, host, &placed, &instants);
    for (number, row) in placed.iter().enumerate() {
        sheet.row(row, &placed[..number]);
    }
    let canvas = sheet.canvas;
    (canvas, lanes.width, bottom + 12)
}

/// One point in time: its first and last row, and the gap before it.
struct Moment {
    first: usize,
    last: usize,
    to_scale: bool,
}

/// Gives every row a band of its own.
fn place<'a>(rows: &'a [Row], lanes: &Lanes) -> (Vec<Placed<'a>>, Vec<Moment>) {
    let mut moments: Vec<Moment> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        match moments.last_mut() {
            Some(moment) if rows[moment.first].at == row.at => moment.last = index,
            _ => moments.push(Moment { first: index, last: index, to_scale: true }),
        }
    }
    let pairs = || moments.iter().zip(moments.iter().skip(1));
    let distances: Vec<u64> = pairs()
        .map(|(before, after)| (rows[after.first].at - rows[before.last].at).as_nanos())
        .map(|nanos| u64::try_from(nanos).unwrap_or(u64::MAX))
        .collect();
    let gaps = gaps(&distances, GAPS.0, GAPS.1, GAPS.2);
    let (mut y, mut placed) = (lanes.top + 8, Vec::with_capacity(rows.len()));
    for (number, moment) in moments.iter_mut().enumerate() {
        if let Some(gap) = number.checked_sub(1).and_then(|before| gaps.get(before)) {
            moment.to_scale = gap.to_scale;
            y += gap.length;
        }
        for row in &rows[moment.first..=moment.last] {
            let lines = wrap(&row.text, room(row, lanes), LINES);
            let height = i32::try_from(lines.len()).unwrap_or(0) * LINE;
            let (top, at) = match row.shown {
                Shown::Arrow(..) => (y + PADDING, y + PADDING + height + 5),
                Shown::Sign(..) => (y + PADDING, y + PADDING + LINE / 2),
            };
            placed.push(Placed { row, lines, top, y: at });
            y = at.max(top + height) + PADDING;
        }
    }
    (placed, moments)
}

/// Columns that a row has for its label.
fn room(row: &Row, lanes: &Lanes) -> usize {
    let width = match row.shown {
        Shown::Arrow(..) => lanes.width - AXIS - 16,
        Shown::Sign(place, _) => {
            let x = x_of(place, lanes);
            (x - AXIS).max(lanes.width - x) - BESIDE - 12
        }
    };
    columns(width).min(LABEL)
}

fn x_of(place: Anchor, lanes: &Lanes) -> i32 {
    let line = match place {
        Anchor::Inside(lane) => lanes.line(lane).or_else(|| lanes.line(Lane::Conntrack)),
        Anchor::End(end) => lanes.end(end),
    };
    line.map_or(AXIS, |line| line.x)
}

struct Sheet<'a> {
    canvas: Canvas,
    lanes: &'a Lanes,
}

impl Sheet<'_> {
    /// The gateway, and the headings of all lifelines.
    fn ground(&mut self, bottom: i32) {
        let (left, right) = self.lanes.gateway;
        let area = Area { x: left, y: 4, width: right - left, height: bottom };
        self.canvas.rect("gateway", area);
        for (number, line) in self.lanes.title.iter().enumerate() {
            let y = 18 + i32::try_from(number).unwrap_or(0) * LINE;
            let class = if number == 0 { "name" } else { "note" };
            self.middle(class, i32::midpoint(left, right), y, line);
        }
        for line in &self.lanes.lines {
            // Headings of the gateway's own lifelines stand below its title.
            let inner = matches!(line.lane, Lane::Conntrack | Lane::Maker);
            let rows = i32::try_from(if inner { 1 } else { line.lines.len() }).unwrap_or(0);
            let y = self.lanes.top - 10 - rows * LINE;
            self.middle("name", line.x, y, line.name);
            for (number, text) in line.lines.iter().enumerate() {
                self.middle("note", line.x, y + (i32::try_from(number).unwrap_or(0) + 1) * LINE, text);
            }
        }
    }

    /// Where conntrack is known to have an entry.
    fn entry(&mut self, flow: &Flow, placed: &[Placed<'_>], bottom: i32) {
        let Some(line) = self.lanes.line(Lane::Conntrack) else { return };
        let ends = placed.iter().find(|placed| placed.row.entry_ends).map(|placed| placed.y);
        let incident = &flow.incident;
        let made_for_it =
            matches!(incident.reset.as_ref().and_then(|reset| reset.event.nfct), Some(Nfct::Entry(CtInfo::New)));
        let until = match (incident.destroyed().is_some(), incident.entry().is_some() && !made_for_it) {
            (true, _) => ends.unwrap_or(self.lanes.top),
            (false, true) => ends.unwrap_or(bottom - 4),
            (false, false) => return,
        };
        let top = self.lanes.top - 2;
        self.canvas.rect("entry", Area { x: line.x - 5, y: top, width: 10, height: (until - top).max(1) });
    }

    fn lifelines(&mut self, placed: &[Placed<'_>], bottom: i32) {
        for line in &self.lanes.lines {
            let end = match line.lane {
                Lane::Client => Some("client"),
                Lane::Server => Some("server"),
                Lane::Conntrack | Lane::Maker => None,
            };
            let death = placed
                .iter()
                .find(|placed| end.is_some_and(|end| placed.row.dead.contains(&end)))
                .map_or(bottom, |placed| placed.y);
            self.canvas.line("life", (line.x, self.lanes.top - 2), (line.x, death));
            if death < bottom {
                self.canvas.line("afterlife", (line.x, death), (line.x, bottom));
            }
        }
    }

    /// The axis of time: a bar where several things happen at the same instant, a break where time is left out.
    fn axis(&mut self, flow: &Flow, host: &Host, placed: &[Placed<'_>], moments: &[Moment]) {
        let mut before: Option<&Moment> = None;
        for moment in moments {
            let (first, last) = (&placed[moment.first], &placed[moment.last]);
            if let Some(before) = before.map(|before| &placed[before.last]) {
                let (from, to) = (before.y, first.y);
                if moment.to_scale {
                    self.canvas.line("axis", (SPINE, from), (SPINE, to));
                } else {
                    let middle = i32::midpoint(before.y.max(before.top + height(before)), first.top);
                    let zigzag: Vec<Point> =
                        [(0, -8), (-5, -5), (5, 1), (-5, 5), (0, 8)].map(|(x, y)| (SPINE + x, middle + y)).into();
                    self.canvas.line("axis", (SPINE, from), (SPINE, middle - 8));
                    self.canvas.path("axis", &zigzag);
                    self.canvas.line("axis", (SPINE, middle + 8), (SPINE, to));
                    let text = pause(first.row.at - before.row.at);
                    self.right("pause", SPINE - 10, middle + 4, &text);
                }
            }
            self.canvas.line("instant", (SPINE, first.y - 4), (SPINE, last.y + 4));
            self.right("time", SPINE - 8, first.y + 4, &time(flow, host, first.row.at));
            before = Some(moment);
        }
    }

    fn row(&mut self, placed: &Placed<'_>, before: &[Placed<'_>]) {
        match placed.row.shown {
            Shown::Arrow(from, to) => self.arrow(placed, x_of(from, self.lanes), x_of(to, self.lanes)),
            Shown::Sign(place, sign) => self.sign(placed, x_of(place, self.lanes), sign),
        }
        // Ends that die of something else than what the row's own sign says, and were not dead before.
        let seen = placed.row.known == Known::SeenOutside;
        let lanes = self.lanes;
        for end in &placed.row.dead {
            let own = matches!(placed.row.shown, Shown::Sign(Anchor::End(at), _) if at == *end);
            let news = seen || !before.iter().any(|before| before.row.dead.contains(end));
            if let Some(line) = lanes.end(end).filter(|_| news && !own) {
                self.cross(if seen { "bad" } else { "bad concluded" }, (line.x, placed.y));
            }
        }
    }

    fn arrow(&mut self, placed: &Placed<'_>, from: i32, to: i32) {
        let (row, y) = (placed.row, placed.y);
        let (left, right) = self.lanes.gateway;
        let tone = tone(row.tone);
        let edge = if to > from { right } else { left };
        let solid = match row.known {
            Known::Seen => to,
            Known::Concluded => from,
            // An end that is the gateway itself has no edge on the way.
            Known::SeenInside if (left..=right).contains(&to) => to,
            Known::SeenInside => edge,
            Known::SeenOutside => i32::midpoint(from, if to > from { left } else { right }),
        };
        if solid != from {
            self.canvas.line(&format!("arrow {tone}"), (from, y), (solid, y));
        }
        if solid != to {
            self.canvas.line(&format!("arrow concluded {tone}"), (solid, y), (to, y));
        }
        self.canvas.head(&format!("head {tone}"), (to, y), to > from);
        for (number, line) in placed.lines.iter().enumerate() {
            self.middle(&format!("label {tone}"), i32::midpoint(from, to), baseline(placed, number), line);
        }
    }

    fn sign(&mut self, placed: &Placed<'_>, x: i32, sign: Sign) {
        let (row, y) = (placed.row, placed.y);
        let tone = tone(row.tone);
        let concluded = if row.known == Known::Concluded { " concluded" } else { "" };
        let class = format!("{tone}{concluded}");
        match sign {
            Sign::Cross => self.cross(&class, (x, y)),
            Sign::Check => {
                self.canvas.circle(&format!("sign {class}"), (x, y), 9);
                self.canvas.path(&format!("stroke {tone}"), &[(x - 4, y), (x - 1, y + 4), (x + 5, y - 4)]);
            }
            Sign::Question => {
                self.canvas.circle(&format!("sign {class}"), (x, y), 9);
                let points = [(x - 3, y - 3), (x, y - 5), (x + 3, y - 3), (x, y + 1), (x, y + 2)];
                self.canvas.path(&format!("stroke {tone}"), &points);
                self.canvas.circle(&format!("dot {tone}"), (x, y + 5), 1);
            }
            Sign::Dot => self.canvas.circle(&format!("dot {class}"), (x, y), 5),
        }
        let to_the_right = self.lanes.width - x >= x - AXIS;
        for (number, line) in placed.lines.iter().enumerate() {
            let (class, y) = (format!("label {tone}"), baseline(placed, number));
            if to_the_right {
                self.canvas.label(&class, (x + BESIDE, y), line);
            } else {
                self.canvas.label(&class, (x - BESIDE - width_of(line), y), line);
            }
        }
    }

    fn cross(&mut self, class: &str, (x, y): Point) {
        self.canvas.circle(&format!("sign {class}"), (x, y), 9);
        let tone = class.split(' ').next().unwrap_or_default();
        self.canvas.path(&format!("stroke {tone}"), &[(x - 4, y - 4), (x + 4, y + 4)]);
        self.canvas.path(&format!("stroke {tone}"), &[(x - 4, y + 4), (x + 4, y - 4)]);
    }

    /// A label around `x`, moved to where there is room for it.
    fn middle(&mut self, class: &str, x: i32, y: i32, text: &str) {
        let width = width_of(text);
        let most = (self.lanes.width - 4 - width).max(AXIS);
        self.canvas.label(class, ((x - width / 2).clamp(AXIS, most), y), text);
    }

    /// A label that ends at `x`.
    fn right(&mut self, class: &str, x: i32, y: i32, text: &str) {
        self.canvas.label(class, ((x - width_of(text)).max(0), y), text);
    }
}

fn height(placed: &Placed<'_>) -> i32 {
    i32::try_from(placed.lines.len()).unwrap_or(0) * LINE
}

fn baseline(placed: &Placed<'_>, line: usize) -> i32 {
    placed.top + 11 + i32::try_from(line).unwrap_or(0) * LINE
}

const fn tone(tone: Tone) -> &'static str {
    match tone {
        Tone::Plain => "plain",
        Tone::Bad => "bad",
        Tone::Good => "good",
    }
}
