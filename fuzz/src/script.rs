//! Items from bytes that a fuzzer can change without breaking them: no checksums, records as differences from others.

use std::io;

use bytes::Bytes;

use tracer_common::wire::RECORD_SIZE;
use tracer_model::capture::{Host, Item, Items};
use tracer_recording::format;
use tracer_recording::format::Frame;

/// Most items of a script.
const ITEMS: usize = 512;

/// Items as a script describes them. It is a row of
///
/// ```text
/// 0  u16 length, bytes           a record
/// 1  u8 kind, u16 length, bytes  another frame of a recording: JSON
/// 2  u8 count, count × (u16 offset, u16 value)
///                                the record before, with words of two bytes changed
/// 3  i32 nanoseconds             the record before, later
/// ```
pub(crate) struct Script<'a> {
    rest: &'a [u8],
    host: Host,
    record: Vec<u8>,
    items: usize,
}

impl<'a> Script<'a> {
    /// Reads a script, whose first item may be the host's.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut script = Self { rest: bytes, host: Host::nobody(), record: vec![0; RECORD_SIZE], items: 0 };
        let start = script.rest;
        match script.step() {
            Some(Step(Some(Frame::Host(host)))) => script.host = host,
            _ => script.rest = start,
        }
        script
    }

    fn step(&mut self) -> Option<Step> {
        let start = self.rest;
        let step = self.take();
        if step.is_none() {
            self.rest = &[];
        }
        // Nothing that is understood takes no bytes.
        (self.rest.len() < start.len()).then_some(step).flatten()
    }

    fn take(&mut self) -> Option<Step> {
        let Self { rest, record, .. } = self;
        match byte(rest)? {
            0 => {
                let bytes = counted(rest)?;
                *record = tracer_model::decode::padded(bytes).map_or_else(|| bytes.to_vec(), |_| whole(bytes));
                Some(Step(Some(Frame::Item(Item::Record(Bytes::copy_from_slice(bytes))))))
            }
            1 => {
                let kind = byte(rest)?;
                let payload = counted(rest)?;
                Some(Step(format::decode(kind, payload).ok().flatten()))
            }
            2 => {
                for _ in 0..byte(rest)? {
                    let (offset, value) = (word(rest)?, word(rest)?);
                    let place = usize::from(offset) % RECORD_SIZE;
                    for (byte, value) in record.iter_mut().skip(place).zip(value.to_le_bytes()) {
                        *byte = value;
                    }
                }
                Some(Step(Some(Frame::Item(Item::Record(Bytes::copy_from_slice(record))))))
            }
            3 => {
                let (bytes, after) = rest.split_first_chunk::<4>()?;
                *rest = after;
                let later = i64::from(i32::from_le_bytes(*bytes));
                if let Some(time) = record.first_chunk_mut::<8>() {
                    *time = u64::from_le_bytes(*time).wrapping_add_signed(later).to_le_bytes();
                }
                Some(Step(Some(Frame::Item(Item::Record(Bytes::copy_from_slice(record))))))
            }
            _ => Some(Step(None)),
        }
    }
}

impl Items for Script<'_> {
    fn host(&self) -> &Host {
        &self.host
    }

    fn read(&mut self) -> io::Result<Option<Item>> {
        while self.items < ITEMS {
            match self.step() {
                None => return Ok(None),
                Some(Step(Some(Frame::Item(item)))) => {
                    self.items += 1;
                    return Ok(Some(item));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }
}

/// A step of a script; nothing where it means nothing.
struct Step(Option<Frame>);

fn whole(bytes: &[u8]) -> Vec<u8> {
    let mut whole = bytes.to_vec();
    whole.resize(RECORD_SIZE, 0);
    whole
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

fn word(rest: &mut &[u8]) -> Option<u16> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u16::from_le_bytes(*bytes))
}

fn counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(word(rest)?);
    let (bytes, after) = rest.split_at(length.min(rest.len()));
    *rest = after;
    Some(bytes)
}
