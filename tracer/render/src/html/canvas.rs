//! A builder of SVG pictures. It escapes all text, and records the areas of labels.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr as _;

use super::escape::{escape, visible};

/// Height of a line of text, in units of the picture.
pub(super) const LINE: i32 = 15;
/// Width of a column of text, in tenths of a unit: all text is monospaced, 12 units high, with columns 0.6 as wide.
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
    /// Its width.
    pub(super) width: i32,
    /// Its height.
    pub(super) height: i32,
}

/// The width of a text.
pub(super) fn width_of(text: &str) -> i32 {
    let tenths = visible(text).width().saturating_mul(COLUMN_TENTHS);
    i32::try_from(tenths.div_ceil(10)).unwrap_or(i32::MAX / 4)
}

/// The number of columns of text that fit.
pub(super) fn columns(width: i32) -> usize {
    usize::try_from(width).unwrap_or(0) * 10 / COLUMN_TENTHS
}

/// Breaks text into at most `most` lines of so many columns, and truncates the last one.
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

    /// A line of text; the point is its left end on the baseline.
    pub(super) fn label(&mut self, class: &str, (x, y): Point, text: &str) {
        let area = Area { x, y: y - LINE + 4, width: width_of(text), height: LINE };
        self.labels.push(area);
        if class.starts_with("label") && !text.is_empty() {
            self.rect("behind", area);
        }
        // Writing to a String does not fail.
        let _infallible = write!(self.body, r#"<text class="{class}" x="{x}" y="{y}">"#);
        let _infallible = escape(&mut self.body, text);
        self.body.push_str("</text>");
    }

    fn put(&mut self, shape: std::fmt::Arguments<'_>) {
        let _infallible = self.body.write_fmt(shape);
    }

    /// The areas of the labels.
    #[cfg(test)]
    pub(super) fn labels(&self) -> &[Area] {
        &self.labels
    }

    /// The picture as an element. Its identifiers are unique if `id` is.
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

    /// Asserts that no label leaves the picture or covers another.
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
