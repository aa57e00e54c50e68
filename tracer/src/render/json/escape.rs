//! JSON whose strings are safe to look at: what moves a cursor or turns the reading direction is escaped too.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::render::plain::unsafe_to_show;

/// Leaves everything but the content of strings to another formatter.
struct Escaping<F>(F);

impl<F: Formatter> Escaping<F> {
    fn fragment<W: ?Sized + io::Write>(writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(unsafe_to_show) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let Some(character) = from.chars().next() else { break };
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &from[character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $name<W: ?Sized + io::Write>(&mut self, writer: &mut W $(, $argument: $type)*) -> io::Result<()> {
            self.0.$name(writer $(, $argument)*)
        })*
    };
}

impl<F: Formatter> Formatter for Escaping<F> {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        Self::fragment(writer, fragment)
    }

    // What the two formatters do themselves; the rest is the same for both.
    delegate! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        begin_object_value();
        end_object_value();
    }
}

/// Writes a value on one line.
pub(super) fn line(value: &impl Serialize, to: &mut impl io::Write) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *to, Escaping(CompactFormatter)))?;
    writeln!(to)
}

/// Writes a value on many lines.
pub(super) fn pretty(value: &impl Serialize, to: &mut dyn io::Write) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *to, Escaping(PrettyFormatter::new())))?;
    writeln!(to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn line(value: &str) -> String {
        let mut bytes = Vec::new();
        super::line(&value, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn strings_are_safe_to_look_at() {
        assert_eq!(
            line("gw\u{1b}[31m\u{9b}1m \u{202e}x\u{e0041}"),
            r#""gw\u001b[31m\u009b1m \u202ex\udb40\udc41""#.to_owned() + "\n"
        );
    }

    proptest! {
        #[test]
        fn and_mean_the_same(text in any::<String>()) {
            let written = line(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            prop_assert_eq!(written.chars().filter(|character| character.is_control()).collect::<String>(), "\n");
            let mut pretty = Vec::new();
            super::pretty(&[&written], &mut pretty).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Vec<String>>(&pretty).unwrap(), [written]);
        }
    }
}
