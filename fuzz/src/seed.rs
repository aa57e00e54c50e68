//! Scripts of golden recordings, from which the fuzzer starts.

use std::io;

use tracer_model::capture::Items;
use tracer_recording::format;
use tracer_recording::format::kind;

/// The script of a recording's items.
pub(crate) fn script(items: &mut impl Items) -> io::Result<Vec<u8>> {
    let mut script = Vec::new();
    let host = format::encode_host(items.host())?;
    frame(&mut script, kind::HOST, &host);
    while let Some(item) = items.read()? {
        let (kind, payload) = format::encode(&item)?;
        frame(&mut script, kind, &payload);
    }
    Ok(script)
}

fn frame(script: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let Ok(length) = u16::try_from(payload.len()) else { return };
    if kind == kind::RECORD {
        script.push(0);
    } else {
        script.extend([1, kind]);
    }
    script.extend(length.to_le_bytes());
    script.extend(payload);
}
