//! Annotated replay: every event of a recording with the final state of its flow, without keeping events.

use std::collections::HashMap;
use std::io;

use tracer_advice::report::Report;
use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::{Flow, FlowId};
use tracer_engine::session;
use tracer_model::capture::{Item, Items};
use tracer_model::filter::Filter;
use tracer_render::annotated::AnnotatedEvent;

/// Passes the events of a recording that match the filter to `each`. `report` is the report of the same recording and
/// filter, and `items` its number of items: what is appended to the recording meanwhile is not read.
pub fn events<E: From<io::Error>>(
    recorded: &mut impl Items,
    report: &Report,
    items: u64,
    filter: &Filter,
    mut each: impl FnMut(AnnotatedEvent<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let settled: HashMap<FlowId, &Flow> = report.flows.iter().map(|flow| (flow.flow.id, &*flow.flow)).collect();
    let mut seen = 0;
    session::replay(recorded, filter.clone(), |item, observed, session| {
        seen += 1;
        let Some(observed) = observed.filter(|observed| seen <= items && wanted(observed, filter, &settled)) else {
            return Ok(());
        };
        let (Some(event), Item::Record(record)) = (observed.event(), item) else { return Ok(()) };
        let final_flow = observed.flow.and_then(|id| settled.get(&id).copied());
        let flow = final_flow.or_else(|| observed.flow.and_then(|id| session.flow(id)));
        each(AnnotatedEvent { observed, event, record, flow, settled: final_flow.is_some(), host: session.host() })
    })
    .map(drop)
}

/// Whether an event matches the filter. With `--cause` the final cause of its flow decides.
fn wanted(observed: &Observed, filter: &Filter, settled: &HashMap<FlowId, &Flow>) -> bool {
    match observed.flow {
        _ if matches!(observed.kind, Kind::Unwanted) => false,
        Some(id) => filter.causes.is_empty() || settled.contains_key(&id),
        None => filter.is_empty(),
    }
}
