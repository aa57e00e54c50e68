//! An entry of the journal of applied cures, as a file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use tracer_model::host_context::Way;

use crate::mitigate::journal::{Done, Entry, State};

/// What the file calls itself.
const SCHEMA: &str = "whyrst.mitigation-journal.v1";

#[derive(Debug, Serialize, Deserialize)]
struct EntryDto {
    schema: String,
    id: String,
    at: String,
    host: String,
    boot_id: String,
    netns: Vec<PlaceDto>,
    steps: Vec<DoneDto>,
    state: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct PlaceDto {
    inode: u32,
    way: Way,
}

#[derive(Debug, Serialize, Deserialize)]
struct DoneDto {
    run: String,
    undo: Vec<String>,
    probe: Option<String>,
    before: Option<String>,
    after: Option<String>,
}

/// The bytes of an entry.
pub(crate) fn encode(entry: &Entry) -> serde_json::Result<Vec<u8>> {
    let step = |done: &Done| DoneDto {
        run: done.run.clone(),
        undo: done.undo.clone(),
        probe: done.probe.clone(),
        before: done.before.clone(),
        after: done.after.clone(),
    };
    let dto = EntryDto {
        schema: SCHEMA.to_owned(),
        id: entry.id.name().to_owned(),
        at: entry.at.to_string(),
        host: entry.host.clone(),
        boot_id: entry.boot.clone(),
        netns: entry.places.iter().map(|(inode, way)| PlaceDto { inode: *inode, way: way.clone() }).collect(),
        steps: entry.steps.iter().map(step).collect(),
        state: entry.state.name().to_owned(),
    };
    let mut bytes = serde_json::to_vec_pretty(&dto)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The entry of these bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry, String> {
    let dto: EntryDto = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if dto.schema != SCHEMA {
        return Err(format!("its schema is {}, not {SCHEMA}", dto.schema));
    }
    let state = State::ALL.into_iter().find(|known| known.name() == dto.state);
    let done = |DoneDto { run, undo, probe, before, after }| Done { run, undo, probe, before, after };
    Ok(Entry {
        id: dto.id.parse().map_err(|error: tracer_model::mitigation::UnknownMitigation| error.to_string())?,
        at: dto.at.parse::<Timestamp>().map_err(|error| error.to_string())?,
        host: dto.host,
        boot: dto.boot_id,
        places: dto.netns.into_iter().map(|place| (place.inode, place.way)).collect(),
        steps: dto.steps.into_iter().map(done).collect(),
        state: state.ok_or_else(|| format!("its state is {}", dto.state))?,
    })
}
