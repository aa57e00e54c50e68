//! An SVG picture in the making. All text in it is escaped here, and where each label is, is known.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::escape::{escape, visible};

/// Height of a line of text, in units of the picture.
pub(super) const LINE: i32 = 15;
/// Tenths of a unit that a column of text takes: all of it is in a fixed pitch of 12 units, whose columns are 0.6 as wide.
const COLUMN_TENTHS: usize = 73;

/// A point.
pub(super) type Point = (i32, i32);

/// An area, in units of the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Area {
    /// Its left edge.
    pub(super) x: i32,
    /// Its upper edge.
    pub(super) y: i32,
    /// How wide it is.
    pub(super) width: i32,
    /// How high it is.
    pub(super) height: i32,
}

/// How far a text reaches.
pub(super) fn width_of(text: &str) -> i32 {
    let tenths = visible(text).width().saturating_mul(COLUMN_TENTHS);
    i32::try_from(tenths.div_ceil(10)).unwrap_or(i32::MAX / 4)
}

/// How many columns of text fit.
pub(super) fn columns(width: i32) -> usize {
    usize::try_from(width).unwrap_or(0) * 10 / COLUMN_TENTHS
}

/// Breaks text into lines of so many columns, and ends the last of `most` where there would be more.
pub(super) fn wrap(text: &str, columns: usize, most: usize) -> Vec<String> {
    let text = visible(text);
    let mut lines: Vec<String> =
        textwrap::wrap(&text, columns.max(8)).into_iter().map(std::borrow::Cow::into_owned).collect();
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            while last.width() + 1 > columns.max(8) {
                last.pop();
            }
            last.push('…');
        }
    }
    lines
}

/// A picture.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
    labels: Vec<Area>,
}

impl Canvas {
    /// A straight line.
    pub(super) fn line(&mut self, class: &str, (x1, y1): Point, (x2, y2): Point) {
        self.put(format_args!(r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#));
    }

    /// A line through points.
    pub(super) fn path(&mut self, class: &str, points: &[Point]) {
        let mut d = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _infallible = write!(d, "{}{x} {y}", if index == 0 { 'M' } else { 'L' });
        }
        self.put(format_args!(r#"<path class="{class}" d="{d}"/>"#));
    }

    /// A triangle whose tip is at `tip`, pointing right or left.
    pub(super) fn head(&mut self, class: &str, (x, y): Point, right: bool) {
        let back = if right { x - 9 } else { x + 9 };
        self.put(format_args!(r#"<path class="{class}" d="M{x} {y}L{back} {}L{back} {}Z"/>"#, y - 5, y + 5));
    }

    /// A rectangle.
    pub(super) fn rect(&mut self, class: &str, area: Area) {
        let Area { x, y, width, height } = area;
        self.put(format_args!(r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="3"/>"#));
    }

    /// A circle.
    pub(super) fn circle(&mut self, class: &str, (x, y): Point, radius: i32) {
        self.put(format_args!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="{radius}"/>"#));
    }

    /// A line of text whose left end and baseline are here.
    pub(super) fn label(&mut self, class: &str, (x, y): Point, text: &str) {
        let area = Area { x, y: y - LINE + 4, width: width_of(text), height: LINE };
        self.labels.push(area);
        if class.starts_with("label") && !text.is_empty() {
            self.rect("behind", area);
        }
        // A String takes any write.
        let _infallible = write!(self.body, r#"<text class="{class}" x="{x}" y="{y}">"#);
        let _infallible = escape(&mut self.body, text);
        self.body.push_str("</text>");
    }

    fn put(&mut self, shape: std::fmt::Arguments<'_>) {
        let _infallible = self.body.write_fmt(shape);
    }

    /// Where the labels are.
    #[cfg(test)]
    pub(super) fn labels(&self) -> &[Area] {
        &self.labels
    }

    /// The picture as an element. Its identifiers are unique where `id` is.
    pub(super) fn finish(self, id: &str, width: i32, height: i32, title: &str, description: &str) -> String {
        let mut svg = String::with_capacity(self.body.len() + 512);
        let _infallible = write!(
            svg,
            r#"<svg role="img" aria-labelledby="{id}-t {id}-d" viewBox="0 0 {width} {height}" width="{width}" height="{height}"><title id="{id}-t">"#
        );
        let _infallible = escape(&mut svg, title);
        let _infallible = write!(svg, r#"</title><desc id="{id}-d">"#);
        let _infallible = escape(&mut svg, description);
        svg.push_str("</desc>");
        svg.push_str(&self.body);
        svg.push_str("</svg>");
        svg
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Area, Canvas};

    /// That no label leaves the picture or covers another.
    #[track_caller]
    pub(in crate::html) fn labels_are_readable(canvas: &Canvas, width: i32, height: i32) {
        let labels = canvas.labels();
        let apart = |a: &Area, b: &Area| {
            a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y
        };
        for (index, label) in labels.iter().enumerate() {
            let inside =
                label.x >= 0 && label.y >= 0 && label.x + label.width <= width && label.y + label.height <= height;
            assert!(inside, "{label:?} leaves {width} x {height}");
            for other in &labels[..index] {
                assert!(apart(label, other), "{label:?} covers {other:?}");
            }
        }
    }
}
