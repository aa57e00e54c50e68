//! A recording told a second time: every event with what its flow came to in the end, without keeping events.

use std::collections::HashMap;
use std::io;

use tracer_advice::report::Report;
use tracer_engine::engine::{Kind, Observed};
use tracer_engine::flow::{Flow, FlowId};
use tracer_engine::session;
use tracer_model::capture::{Item, Items};
use tracer_model::filter::Filter;
use tracer_render::annotated::AnnotatedEvent;

/// Hands out the events of a recording that the filter wants. `report` is what the same recording came to with the same
/// filter, and `items` how many items that was made of: a recording that grows meanwhile is read no further.
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
        let told = observed.flow.and_then(|id| settled.get(&id).copied());
        let flow = told.or_else(|| observed.flow.and_then(|id| session.flow(id)));
        each(AnnotatedEvent { observed, event, record, flow, settled: told.is_some(), host: session.host() })
    })
    .map(drop)
}

/// Whether the filter wants an event. With `--cause` that is decided by what its flow came to.
fn wanted(observed: &Observed, filter: &Filter, settled: &HashMap<FlowId, &Flow>) -> bool {
    match observed.flow {
        _ if matches!(observed.kind, Kind::Unwanted) => false,
        Some(id) => filter.causes.is_empty() || settled.contains_key(&id),
        None => filter.is_empty(),
    }
}
